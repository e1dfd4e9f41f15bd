"""Images of a folder that look most like one: `python -m examples.similarity ARTIFACT IMAGE FOLDER [--top-k 5]`.

The artifact gives embeddings: `rest-export --checkpoint FILE --features embedding -o embedding.onnx`. An embedding is
the normalised vector that a classifier's head takes, and is there for classes that it was never trained on. Two images
are as alike as the cosine of the angle between their embeddings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rest_deploy import Predictor
from rest_deploy.errors import ImageError, RestDeployError
from rest_deploy.preprocess.dataset import images_below


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C) -> (N, C), each of length one, so that products of two are cosines."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def most_similar(predictor: Predictor, image: str | Path, folder: str | Path, top_k: int) -> list[tuple[float, Path]]:
    """Cosine and path of the images of a folder that are most like an image, best first; broken ones are skipped."""
    wanted = unit(predictor.embed([image]))[0]
    found = images_below(folder)
    if found.left_out:
        print(f"warning: {folder}: {found.left_out_note}", file=sys.stderr)
    cosines = []
    for path in found.images:
        try:
            cosines.append((float(unit(predictor.embed([path]))[0] @ wanted), path))
        except ImageError as exc:
            print(f"warning: skipped: {exc}", file=sys.stderr)
    return sorted(cosines, key=lambda own: -own[0])[:top_k]


def main() -> int:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("image", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--top-k", type=int, default=5)
    arguments = parser.parse_args()
    try:
        with Predictor(arguments.artifact) as predictor:
            found = most_similar(predictor, arguments.image, arguments.folder, arguments.top_k)
    except RestDeployError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    for cosine, path in found:
        print(f"{cosine:.4f}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
