"""rest-bench: how fast artifacts are, against each other and against what else would run the network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rest_deploy.benchmarking.measure import Effort
from rest_deploy.benchmarking.statistics import CONFIDENCES
from rest_deploy.cli.bench_text import notes, rows, tables, text
from rest_deploy.cli.preprocessing_flags import number_as, number_of, typed
from rest_deploy.cli.process import INTERRUPTED, start
from rest_deploy.cli.record_files import add_output_flags, check_outputs, finite, read_other, to_json, write_outputs
from rest_deploy.cli.terminal import FAILED, OK, command, parser, progress_display
from rest_deploy.errors import ConfigError
from rest_deploy.specs import BATCH, SEED, THREADS, ImageSize

if TYPE_CHECKING:
    from rest_deploy.benchmarking import BenchmarkReport

_BASELINES = "torch, torch-compile, as-written, openvino"


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-bench",
        "Time artifacts and baselines in turns, round by round. A difference is called one only beyond noise.",
    )
    add = made.add_argument
    add("artifacts", nargs="*", metavar="ARTIFACT", help=".onnx or .engine file, or a checkpoint; any number")
    add("--sizes", nargs="+", metavar="HxW", type=typed(ImageSize.parse), help="of the images (default 224)")
    add("--batch", nargs="+", metavar="N", type=number_as(BATCH), default=[1], help="images of a call (default 1)")
    add("--baseline", nargs="+", metavar="NAME", default=[], help=f"of each network, without any file: {_BASELINES}")
    add("--model", nargs="+", metavar="NAME", default=[], help="networks by name, for baselines without an artifact")
    add("--checkpoint", metavar="FILE", help="weights of the baselines (default random, which takes as long)")
    add("--relative-to", metavar="NAME", help="contender that ratios are formed to (default the first of a network)")
    add("--device", help="cpu, cuda or cuda:N, never another than asked (default cpu, of an engine cuda)")
    add(
        "--threads", type=number_as(THREADS), help="CPU threads of a call (default: one for each core that may be used)"
    )
    add("--seed", type=number_as(SEED), default=0, help="of images and random weights (default 0)")
    effort = made.add_argument_group("how long")
    effort.add_argument(
        "--min-rounds",
        metavar="N",
        type=number_of(Effort, "min_rounds"),
        default=15,
        help="rounds of a size (default 15)",
    )
    effort.add_argument(
        "--min-seconds",
        metavar="S",
        type=number_of(Effort, "min_seconds"),
        default=2.5,
        help="timed of each contender at a size (default 2.5)",
    )
    effort.add_argument(
        "--max-seconds",
        metavar="S",
        type=number_of(Effort, "max_seconds"),
        help="of a size, after which no round begins",
    )
    effort.add_argument(
        "--confidence", metavar="SHARE", type=number_as(CONFIDENCES), default=0.99, help="of intervals (default 0.99)"
    )
    effort.add_argument("--no-cold", action="store_true", help="do not measure load, first answer and peak memory")
    add_output_flags(made)
    add("--verification", metavar="FILE.json", type=Path, help="what rest-verify wrote, to go into the report too")
    add("--compare", metavar="OLD.json", type=Path, help="an earlier run; exits with 1 where something became slower")
    return made


def _main(arguments: argparse.Namespace) -> int:
    from rest_deploy.benchmarking import DEFAULT_SIZE, benchmark
    from rest_deploy.report import write_report

    check_outputs(arguments.output, arguments.report)
    verification = read_other(arguments.verification, "rest-verify", arguments.report, "--verification")
    old = _old(arguments)
    with progress_display("measuring") as report:
        made = benchmark(
            arguments.artifacts,
            sizes=arguments.sizes or [DEFAULT_SIZE],
            batches=arguments.batch,
            baselines=arguments.baseline,
            models=arguments.model,
            checkpoint=arguments.checkpoint,
            device=arguments.device,
            threads=arguments.threads,
            effort=Effort(arguments.min_rounds, arguments.min_seconds, arguments.max_seconds),
            confidence=arguments.confidence,
            cold=not arguments.no_cold,
            relative_to=arguments.relative_to,
            seed=arguments.seed,
            command=arguments.command_line,
            report=report,
        )
    if old is not None:
        _compare(made, old, arguments)
    record = finite(made.to_dict())
    print(to_json(record, sys.stdout.encoding) if arguments.json else text(made), flush=True)
    write_outputs(arguments.output, record, lambda: (tables(made), notes(made)), lambda: rows(made))
    if arguments.report is not None:
        write_report(arguments.report, verification=verification, benchmark=record)
    if made.interrupted:
        return INTERRUPTED
    return FAILED if made.failures or (made.comparison is not None and made.comparison.found) else OK


def _old(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The earlier run, found comparable before anything is measured."""
    from rest_deploy.benchmarking.regression import check_comparable
    from rest_deploy.environment import describe_environment
    from rest_deploy.report import read_record

    if arguments.compare is None:
        return None
    old = read_record(arguments.compare)
    check_comparable(describe_environment(), old, str(arguments.compare))
    return old


def _compare(made: BenchmarkReport, old: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Compare with the earlier run; where that cannot be, what was measured is told all the same."""
    from rest_deploy.benchmarking import compare_runs

    try:
        made.comparison = compare_runs(made.to_dict(), old, str(arguments.compare), arguments.confidence)
    except ConfigError as exc:
        made.notes.append(str(exc))


main = command(_main, _parser, lambda arguments: arguments.json or not (arguments.output or arguments.report))

if __name__ == "__main__":
    sys.exit(start("bench"))
