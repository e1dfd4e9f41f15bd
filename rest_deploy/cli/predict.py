"""rest-predict: classify images with an artifact."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rest_deploy.cli.preprocessing_flags import number_as
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import FAILED, OK, ON_A_SERVER, clean, command, parser, progress_display
from rest_deploy.errors import ImageError
from rest_deploy.predictor import Prediction, Predictor, assumed_of
from rest_deploy.runtimes.registry import can_sleep, device_help
from rest_deploy.specs import MAX_PIXELS, THREADS, TOP_K, USUAL_MAX_PIXELS, Activation


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-predict", "Classify images with an exported network.")
    made.add_argument("artifact", help=f".onnx or .engine file, a PyTorch checkpoint, or {ON_A_SERVER}")
    made.add_argument("images", nargs="+", help="image files, or folders of them, subfolders included")
    made.add_argument(
        "--top-k",
        type=number_as(TOP_K),
        metavar="K",
        help="predictions for each image (default 5, or all where each class has a score of its own)",
    )
    made.add_argument("--device", help=device_help())
    made.add_argument(
        "--threads", type=number_as(THREADS), help="CPU threads (default: one for each core that may be used)"
    )
    made.add_argument(
        "--max-pixels",
        type=number_as(MAX_PIXELS),
        default=USUAL_MAX_PIXELS,
        metavar="N",
        help="most pixels of the network's input, if memory allows (default %(default)s)",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def _main(arguments: argparse.Namespace) -> int:
    paths = [path for image in arguments.images for path in _expand(Path(image))]
    answers: dict[int, list[Prediction] | ImageError] = {}
    options = {"threads": arguments.threads, "max_pixels": arguments.max_pixels}
    if len(paths) > 1 and can_sleep(arguments.artifact):  # threads that spin take cores from those that decode
        options["allow_spinning"] = False
    opened = Predictor(arguments.artifact, arguments.device, **options)
    with opened as predictor, progress_display("predicting") as report:
        info = predictor.info
        if info.weights.random:
            print(f"warning: {arguments.artifact} holds random weights; its predictions mean nothing", file=sys.stderr)
        if arguments.verbose:
            from rest_deploy.cli.record_text import assumed, record_rows

            for name, value in {**record_rows(info), "assumed": assumed(info) or "nothing"}.items():
                print(f"{name}: {clean(value)}", file=sys.stderr)
            if predictor.max_pixels is not None:
                print(f"at most {predictor.max_pixels:,} pixels of input", file=sys.stderr)
        elif told := assumed_of(arguments.artifact, info):
            print(f"warning: {clean(told)}", file=sys.stderr)
        start = time.monotonic()
        for index, answer in predictor.stream(paths, arguments.top_k):
            answers[index] = answer
            rate = len(answers) / max(time.monotonic() - start, 1e-9)
            report(len(answers) / len(paths), f"{len(answers)} of {len(paths)} images, {rate:.3g} a second")
    if arguments.json:
        print(json.dumps([_as_json(path, answers[i]) for i, path in enumerate(paths)], indent=2))
    failed = False
    for i, path in enumerate(paths):
        answer = answers[i]
        if isinstance(answer, ImageError):
            failed = True
            print(f"error: {clean(str(answer))}", file=sys.stderr)
        elif not arguments.json:
            print(clean(str(path)))
            for prediction in answer:
                print(f"  {_score(prediction.score, info.activation)}  {clean(prediction.label)} ({prediction.index})")
    return FAILED if failed else OK


def _score(score: float, activation: Activation) -> str:
    return f"{score:9.4f}" if activation is Activation.NONE else f"{score:7.2%}"


def _expand(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        return (path,)
    from rest_deploy.preprocess.dataset import images_below

    found = images_below(path)
    if found.left_out:
        print(f"warning: {clean(str(path))}: {clean(found.left_out_note)}", file=sys.stderr)
    return found.images


def _as_json(path: Path, answer: list[Prediction] | ImageError) -> dict[str, object]:
    if isinstance(answer, ImageError):
        return {"image": str(path), "error": str(answer)}
    return {"image": str(path), "predictions": answer}


main = command(_main, _parser)

if __name__ == "__main__":
    sys.exit(start("predict"))
