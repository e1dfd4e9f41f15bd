"""A service that classifies pictures: `ARTIFACT=digits.onnx uvicorn examples.service:app --limit-concurrency 100`.

`curl --data-binary @PICTURE http://127.0.0.1:8000/classify` answers as `Predictor.classify` does: 400 where the picture
cannot be used, 413 where it has more bytes than are taken, 503 where this process cannot answer any; each says why.
Needs fastapi and uvicorn.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.requests import ClientDisconnect

from rest_deploy import Predictor
from rest_deploy.errors import ImageError, PredictorError

MAX_BYTES = 16 << 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One predictor for all requests, whose calls share the cores. The first call is slow, so it is made here."""
    with Predictor(os.environ["ARTIFACT"], threads=1) as predictor:
        predictor.classify(Image.new("RGB", (224, 224)))
        app.state.predictor = predictor
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, Any]]:
    """The bytes of a picture in the body -> its best classes; the network runs in a thread, beside the event loop."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"the body has over {MAX_BYTES:,} bytes; scale the picture down first")
    return await app.state.predictor.classify_async(content)


@app.get("/health")
async def health() -> dict[str, Any]:
    """What is served: the essentials of the file's record."""
    info = app.state.predictor.info
    return {
        "model": info.model,
        "precision": info.precision,
        "classes": info.num_classes,
        "weights": info.weights.sha256,
    }


@app.exception_handler(ImageError)
@app.exception_handler(ClientDisconnect)
@app.exception_handler(PredictorError)
async def refused(_: Request, error: Exception) -> JSONResponse:
    """Whose fault it is: the request's, or this process's, as where memory is short."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, PredictorError) else 400)
