"""rest-verify: artifacts against the checkpoint they were made from, or against another artifact."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rest_deploy.cli.preprocessing_flags import (
    add_preprocessing_flags,
    add_weights_flags,
    number_as,
    preprocessing_change,
    typed,
)
from rest_deploy.cli.process import INTERRUPTED, start
from rest_deploy.cli.tables import add_output_flags, check_outputs, finite, read_other, to_json, write_outputs
from rest_deploy.cli.terminal import command, failed, parser, progress_display
from rest_deploy.cli.verify_text import notes, rows, tables, text
from rest_deploy.errors import ConfigError
from rest_deploy.runtimes.registry import device_help
from rest_deploy.specs import BATCH, FACTOR, IMAGES, SEED, SHARE, THREADS, ImageSize


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-verify",
        "Compare artifacts with the checkpoint they were made from, or with another artifact. Exits with 1 where an "
        "error is over its limit.",
    )
    add = made.add_argument
    add("artifacts", nargs="+", metavar="ARTIFACT", help=".onnx or .engine file, or a checkpoint; any number")
    add("--reference", required=True, metavar="FILE", help="checkpoint, run in PyTorch float64, or an artifact")
    add(
        "--sizes",
        nargs="+",
        metavar="HxW",
        type=typed(ImageSize.parse),
        help="of synthetic images, and that real ones are brought to (default: six sizes from 1x1 to 512x544)",
    )
    add("--no-synthetic", action="store_true", help="look at real images alone")
    add("--per-block", action="store_true", help="compare block by block, and name the one where a difference begins")
    add(
        "--threads", type=number_as(THREADS), help="CPU threads of a call (default: one for each core that may be used)"
    )
    add("--device", help=device_help())
    add(
        "--seed",
        type=number_as(SEED),
        default=0,
        help="of synthetic images, and of the choice of real ones (default 0)",
    )
    _add_images(made.add_argument_group("real images"))
    _add_limits(made.add_argument_group("limits (default: by precision, docs/measuring.md)"))
    add_weights_flags(made.add_argument_group("weights of the reference (default: those it was made of)"))
    add_output_flags(made)
    add("--benchmark", metavar="FILE.json", type=Path, help="what rest-bench wrote, to go into the report too")
    return made


def _add_images(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", metavar="DIR", type=Path, help="images; a subfolder for each class tells their classes")
    add("--ground-truth", metavar="FILE", type=Path, help="tells their classes: a line an image, PATH CLASS")
    add("--max-images", metavar="N", type=number_as(IMAGES), help="how many at most, chosen by the seed (default all)")
    add("--batch", metavar="N", type=number_as(BATCH), help="images of a call (default 1)")
    add_preprocessing_flags(group)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-error", metavar="STD", type=number_as(FACTOR), help="largest, in standard deviations of the logits")
    add("--min-top1-agreement", metavar="SHARE", type=number_as(SHARE), help="with the reference, on images, as 0.99")
    add(
        "--max-accuracy-loss",
        metavar="SHARE",
        type=number_as(SHARE),
        help="of top-1, against the reference's, as 0.005",
    )


def _main(arguments: argparse.Namespace) -> int:
    from rest_deploy.report import write_report
    from rest_deploy.verification import Images, Limits, WeightsChoice, verify

    check_outputs(arguments.output, arguments.report)
    limits = Limits(arguments.max_error, arguments.min_top1_agreement, arguments.max_accuracy_loss)
    change, data = preprocessing_change(arguments), None
    if arguments.data is not None:
        data = Images(arguments.data, arguments.ground_truth, change, arguments.max_images, _given(arguments.batch, 1))
    elif (arguments.ground_truth, change, arguments.max_images, arguments.batch) != (None,) * 4:
        raise ConfigError("flags that tell of images were given without images; give --data DIR")
    heads = tuple(arguments.num_heads) if arguments.num_heads else None
    choice = WeightsChoice(arguments.weights_key, arguments.key_prefix, heads)
    benchmark = read_other(arguments.benchmark, "rest-bench", arguments.report, "--benchmark")
    with progress_display("verifying") as report:
        found = verify(
            arguments.artifacts,
            arguments.reference,
            data=data,
            sizes=arguments.sizes,
            synthetic=not arguments.no_synthetic,
            per_block=arguments.per_block,
            limits=limits,
            device=arguments.device,
            threads=arguments.threads,
            choice=None if choice == WeightsChoice() else choice,
            seed=arguments.seed,
            command=arguments.command_line,
            report=report,
        )
    record = finite(found.to_dict())
    print(to_json(record, sys.stdout.encoding) if arguments.json else text(found), flush=True)
    write_outputs(arguments.output, record, lambda: (tables(found), notes(found)), lambda: rows(found))
    if arguments.report is not None:
        write_report(arguments.report, verification=record, benchmark=benchmark)
    if found.interrupted:
        return INTERRUPTED
    return failed(found.failures)


def _given(value: int | None, default: int) -> int:
    return value if value is not None else default


main = command(_main, _parser, lambda arguments: arguments.json or not (arguments.output or arguments.report))

if __name__ == "__main__":
    sys.exit(start("verify"))
