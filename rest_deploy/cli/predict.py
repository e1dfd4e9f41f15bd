"""rest-predict: classify images with an artifact."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.cli.flags import number_as
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import FAILED, OK, ON_A_SERVER, clean, command, parser, progress_display
from rest_deploy.errors import ConfigError, ImageError, counted
from rest_deploy.machine import importing
from rest_deploy.predictor import Prediction, Predictor, assumed_of
from rest_deploy.runtimes.registry import can_sleep, device_help
from rest_deploy.specs import MAX_PIXELS, THREADS, TOP_K, USUAL_MAX_PIXELS, Activation


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-predict", "Classify images with an exported network.")
    made.add_argument("artifact", help=f".onnx or .engine file, a PyTorch checkpoint, or {ON_A_SERVER}")
    made.add_argument("images", nargs="+", help="image files, or folders of them, subfolders included")
    archives = made.add_argument_group(
        "archives", "Any number of images, a row for each, to a file that is whole or not there (docs/archives.md)."
    )
    archives.add_argument(
        "--output",
        metavar="FILE",
        help=".jsonl or .parquet, or such a URI that pyarrow reaches; images may also be .txt lists and .tar files",
    )
    archives.add_argument(
        "--shard",
        metavar="I/N",
        help="do the I-th of N parts, counted from 1; 3/16 of r.parquet writes r-00003-of-00016.parquet",
    )
    archives.add_argument("--resume", action="store_true", help="go on with what was begun; leave what is done")
    archives.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="by Ray on this machine alone; auto: in the cluster that it is part of; or in that at HOST:PORT",
    )
    made.add_argument(
        "--top-k",
        type=number_as(TOP_K),
        metavar="K",
        help="predictions for each image (default 5, or all where each class has a score of its own)",
    )
    made.add_argument("--device", help=device_help())
    made.add_argument(
        "--threads",
        type=number_as(THREADS),
        help="CPU threads (default: one for each core that may be used; for a worker of Ray one)",
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
    if arguments.output is not None:
        return _write(arguments)
    for flag in ("shard", "resume", "ray"):
        if getattr(arguments, flag) not in (None, False):
            raise ConfigError(f"--{flag} is of results in a file; give --output FILE too")
    paths = [path for image in arguments.images for path in _expand(Path(image))]
    answers: dict[int, list[Prediction] | ImageError] = {}
    options = {"threads": arguments.threads, "max_pixels": arguments.max_pixels}
    # threads that spin take cores from those that decode
    if len(paths) > 1 and can_sleep(arguments.artifact, arguments.device):
        options["allow_spinning"] = False
    with importing("rest_deploy.preprocess.images"):  # and Pillow, in some 10 ms
        opened = Predictor(arguments.artifact, arguments.device, **options)
    with opened as predictor, progress_display("predicting") as report:
        info = predictor.info
        _tell(arguments, info, predictor.note)
        if arguments.verbose and predictor.max_pixels is not None:
            print(f"at most {predictor.max_pixels:,} pixels of input", file=sys.stderr)
        start = time.monotonic()
        for index, answer in predictor.stream(paths, arguments.top_k):
            answers[index] = _as_told(paths[index], answer)
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


def _write(arguments: argparse.Namespace) -> int:
    from rest_deploy.archives.results import Output
    from rest_deploy.archives.run import ArchiveRequest, run
    from rest_deploy.archives.sources import Shard

    output = Output(arguments.output, Shard.parse(arguments.shard) if arguments.shard else None)
    options = {name: getattr(arguments, name) for name in ("resume", "ray", "top_k", "device", "threads", "max_pixels")}
    request = ArchiveRequest(arguments.artifact, arguments.images, output, **options)

    def warn(text: str) -> None:
        print(f"warning: {clean(text)}", file=sys.stderr)

    with progress_display("predicting") as report:
        done = run(
            request,
            lambda info: _tell(arguments, info),
            warn,
            lambda count, total, rate: report(count / total, f"{count:,} of {total:,} images, {rate:.3g} a second"),
        )
    if done.failed:
        warn(f"{done.path}: {counted(done.failed, 'image')} could not be answered; the rows say why")
    if arguments.json:
        print(json.dumps(asdict(done), indent=2))
    elif done.images is None:
        print(f"{clean(done.path)}: was whole already, nothing was done")
    else:
        print(f"{clean(done.path)}: {counted(done.images, 'image')}")
    return OK


def _tell(arguments: argparse.Namespace, info: ArtifactInfo, note: str = "") -> None:
    """Say on stderr what there is to know of the artifact before its answers are believed."""
    if note and not arguments.verbose:  # else it is in the log
        print(f"warning: {clean(note)}", file=sys.stderr)
    if info.weights.random:
        print(f"warning: {arguments.artifact} holds random weights; its predictions mean nothing", file=sys.stderr)
    if arguments.verbose:
        from rest_deploy.cli.record_text import assumed, record_rows

        for name, value in {**record_rows(info), "assumed": assumed(info) or "nothing"}.items():
            print(f"{name}: {clean(value)}", file=sys.stderr)
    elif told := assumed_of(arguments.artifact, info):
        print(f"warning: {clean(told)}", file=sys.stderr)


def _score(score: float, activation: Activation) -> str:
    return f"{score:9.4f}" if activation is Activation.NONE else f"{score:7.2%}"


def _expand(path: Path) -> tuple[Path, ...]:
    if not os.path.isdir(path):
        return (path,)
    from rest_deploy.preprocess.dataset import images_below

    found = images_below(path)
    if found.left_out:
        print(f"warning: {clean(str(path))}: {clean(found.left_out_note)}", file=sys.stderr)
    return found.images


def _as_told(path: Path, answer: list[Prediction] | ImageError) -> list[Prediction] | ImageError:
    """An answer; of a list or a tar file, which are no images, what reads them."""
    if not isinstance(answer, ImageError):
        return answer
    from rest_deploy.archives.sources import LIST, TAR

    what = {LIST: "a list", TAR: "a tar file"}.get(path.suffix.lower())
    if what is None or not os.path.isfile(path):
        return answer
    return ImageError(f"{path}: {what}, whose images are read only with --output; add --output FILE.jsonl")


def _as_json(path: Path, answer: list[Prediction] | ImageError) -> dict[str, object]:
    if isinstance(answer, ImageError):
        return {"image": str(path), "error": str(answer)}
    return {"image": str(path), "predictions": answer}


main = command(_main, _parser, lambda arguments: arguments.output is None)

if __name__ == "__main__":
    sys.exit(start("predict"))
