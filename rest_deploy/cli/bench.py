"""rest-bench: how fast artifacts are, against each other and against what else would run the network."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rest_deploy.benchmarking.contenders import BASELINES
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.benchmarking.regression import Regressions
from rest_deploy.benchmarking.results import BenchmarkReport, CaseResult, Result
from rest_deploy.benchmarking.statistics import CONFIDENCES
from rest_deploy.cli.flags import number_as, number_of, typed
from rest_deploy.cli.process import INTERRUPTED, start
from rest_deploy.cli.tables import (
    Table,
    add_output_flags,
    check_outputs,
    figure,
    finite,
    read_other,
    show,
)
from rest_deploy.cli.terminal import ON_A_SERVER, clean, command, failed, parser, progress_display
from rest_deploy.errors import ConfigError, counted
from rest_deploy.runtimes.registry import device_help
from rest_deploy.specs import BATCH, SEED, THREADS, ImageSize


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-bench",
        "Time artifacts and baselines in turns, round by round. A difference counts only beyond noise.",
    )
    add = made.add_argument
    files = f".onnx or .engine file, a checkpoint, or {ON_A_SERVER}; any number"
    add("artifacts", nargs="*", metavar="ARTIFACT", help=files)
    add("--sizes", nargs="+", metavar="HxW", type=typed(ImageSize.parse), help="of the images (default 224)")
    add("--batch", nargs="+", metavar="N", type=number_as(BATCH), default=[1], help="images in a call (default 1)")
    baselines = f"time these too for each network, without a file: {', '.join(BASELINES)}"
    add("--baseline", nargs="+", metavar="NAME", default=[], help=baselines)
    add("--model", nargs="+", metavar="NAME", default=[], help="networks by name, for baselines without an artifact")
    add("--checkpoint", metavar="FILE", help="weights of the baselines (default random, which takes as long)")
    add(
        "--relative-to", metavar="NAME", help="contender to compare the others with (default the first of each network)"
    )
    add("--device", help=device_help())
    add(
        "--threads", type=number_as(THREADS), help="CPU threads of a call (default: one for each core that may be used)"
    )
    add("--seed", type=number_as(SEED), default=0, help="seed of images and random weights (default 0)")
    _add_effort(made.add_argument_group("how long"))
    add_output_flags(made)
    add("--verification", metavar="FILE.json", type=Path, help="record of rest-verify, to show in the report too")
    earlier = "record of an earlier run; exit with 1 if something became slower"
    add("--compare", metavar="OLD.json", type=Path, help=earlier)
    return made


def _add_effort(group: argparse._ArgumentGroup) -> None:
    add, own = group.add_argument, functools.partial(number_of, Effort)
    add("--min-rounds", metavar="N", type=own("min_rounds"), default=15, help="rounds at each size (default 15)")
    timed = "seconds timed for each contender at each size (default 2.5)"
    add("--min-seconds", metavar="S", type=own("min_seconds"), default=2.5, help=timed)
    limit = "seconds at each size, after which no round begins"
    add("--max-seconds", metavar="S", type=own("max_seconds"), help=limit)
    share = "confidence of intervals (default 0.99)"
    add("--confidence", metavar="SHARE", type=number_as(CONFIDENCES), default=0.99, help=share)
    add("--no-cold", action="store_true", help="do not measure load, first answer and peak memory")


def _main(arguments: argparse.Namespace) -> int:
    from rest_deploy.benchmarking import DEFAULT_SIZE, benchmark

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
    show(
        arguments,
        record,
        text=lambda: _text(made),
        content=lambda: (_tables(made), _notes(made)),
        rows=lambda: _rows(made),
        verification=verification,
        benchmark=record,
    )
    if made.interrupted:
        return INTERRUPTED
    slower = made.comparison.found if made.comparison is not None else []
    regressions = [f"{row.contender} at {row.case} is slower than in {arguments.compare}" for row in slower]
    return failed([*(f"not measured: {failure}" for failure in made.failures), *regressions])


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
    """Compare with the earlier run; if that is impossible, print the measurements without it."""
    from rest_deploy.benchmarking import compare_runs

    try:
        made.comparison = compare_runs(made.to_dict(), old, str(arguments.compare), arguments.confidence)
    except ConfigError as exc:
        made.notes.append(str(exc))


def _text(made: BenchmarkReport) -> str:
    """Everything, for a terminal."""
    parts = [_head(made)]
    if made.interrupted:
        parts.append("INTERRUPTED: what follows was measured before")
    for case in made.cases:
        parts.append(_case_table(made, case).text())
        parts += ["\n".join(f"  {clean(flag)}" for flag in case.conditions.flags)] if case.conditions.flags else []
        if any(result.gpu is not None for result in case.results):
            parts.append(_gpu_table(case).text())
    if made.cold:
        parts.append(_cold_table(made).text())
    if made.comparison is not None:
        parts.append(_comparison_table(made.comparison).text())
        parts += [f"  {clean(note)}" for note in made.comparison.notes]
    parts += [f"not measured: {clean(failure)}" for failure in made.failures]
    return "\n\n".join(parts)


def _tables(made: BenchmarkReport) -> list[Table]:
    """Everything as tables."""
    found = [_case_table(made, case) for case in made.cases]
    found += [_gpu_table(case) for case in made.cases if any(result.gpu is not None for result in case.results)]
    if made.cold:
        found.append(_cold_table(made))
    if made.comparison is not None:
        found.append(_comparison_table(made.comparison))
    return found


def _notes(made: BenchmarkReport) -> list[str]:
    """What the tables do not say, a line each."""
    interrupted = ["INTERRUPTED: what is here was measured before"] if made.interrupted else []
    flags = [f"{case.case}: {flag}" for case in made.cases for flag in case.conditions.flags]
    compared = list(made.comparison.notes) if made.comparison is not None else []
    failures = [f"not measured: {failure}" for failure in made.failures]
    return [*_head(made).splitlines(), *interrupted, *flags, *compared, *failures]


_COLUMNS = (
    *("error", "calls", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "images_per_second", "gflops", "share_of_machine"),
)


def _rows(made: BenchmarkReport) -> list[Mapping[str, Any]]:
    """A row for each case and contender."""
    lines: list[Mapping[str, Any]] = []
    for case in made.cases:
        batch, height, width = case.case.sizes
        for result in case.results:
            values = result.to_dict()
            ratio = values["ratio"] or {}
            lines.append(
                {
                    **{"contender": result.contender, "batch": batch, "height": height, "width": width},
                    **{column: values[column] for column in _COLUMNS},
                    **{f"ratio_{key}": ratio.get(key) for key in ("to", "median", "low", "high", "verdict")},
                    "flags": "; ".join(case.conditions.flags),
                }
            )
    return lines


def _head(made: BenchmarkReport) -> str:
    environment, settings = made.environment, made.settings
    lines = [f"{environment.get('cpu') or 'unknown CPU'}, {counted(settings['threads'], 'thread')}"]
    lines += [str(gpu.get("name")) for gpu in environment.get("gpus") or ()]
    if made.machine is not None:
        rate = made.machine
        lines.append(f"matrix products at {rate.gflops:.0f} GFLOP/s ({rate.by}, {rate.side}x{rate.side}, float32)")
    lines += [f"{c.name}: {made.descriptions.get(c.name) or 'not opened'}" for c in made.contenders]
    return "\n".join(clean(line) for line in lines)


def _case_table(made: BenchmarkReport, case: CaseResult) -> Table:
    to = {result.ratio.to for result in case.results if result.ratio is not None}
    alone = f"x {next(iter(to))}" if len(to) == 1 else "x the first"
    head = ("contender", "p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "GFLOP/s", "of machine", alone, "")
    title = f"{case.case} (batch x height x width), {counted(case.rounds, 'round')}"
    return Table(title, head, [_row(result, to) for result in case.results], words=1)


def _row(result: Result, denominators: Collection[str]) -> tuple[str, ...]:
    if result.error is not None:
        return (result.contender, *["-"] * 8, result.error)
    ratio = result.ratio
    told, verdict = "1" if result.contender in denominators else "-", ""
    if ratio is not None:
        interval = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low is not None and ratio.high is not None else ""
        told, verdict = f"{ratio.median:.3f}{interval}", ratio.verdict.value
    values = result.to_dict()
    return (
        result.contender,
        *(figure(values[key], ".2f") for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms")),
        figure(result.images_per_second, ".1f"),
        figure(result.gflops, ".1f"),
        figure(result.share, ".0%"),
        told,
        verdict,
    )


def _gpu_table(case: CaseResult) -> Table:
    figures = ("host_to_host_ms", "compute_ms", "copy_in_ms", "copy_out_ms", "enqueue_ms")
    head = ("contender", *(name.replace("_", " ") for name in figures))
    lines = [(r.contender, *(f"{r.gpu[name]:.3f}" for name in figures)) for r in case.results if r.gpu is not None]
    return Table(f"{case.case} on the GPU, by CUDA events, medians", head, lines)


def _cold_table(made: BenchmarkReport) -> Table:
    cases = [str(case.case) for case in made.cases]
    head = ("first start, in a process of its own", "load ms", "first answer ms", *(f"peak MiB {c}" for c in cases))
    lines = [
        (
            name,
            figure(cold.load_ms, ".0f"),
            figure(cold.first_answer_ms, ".0f"),
            *(figure(cold.peak_mib.get(case), ".0f") for case in cases),
        )
        for name, cold in made.cold.items()
    ]
    return Table("", head, lines)


def _comparison_table(comparison: Regressions) -> Table:
    head = ("contender", "case", "then ms", "now ms", "machine", "ratio", "")
    return Table(f"against {comparison.old}", head, list(_comparison_rows(comparison)), words=1)


def _comparison_rows(comparison: Regressions) -> Iterator[tuple[str, ...]]:
    for row in comparison.rows:
        ratio = f"{row.ratio:.3f} [{row.low:.2f}, {row.high:.2f}]"
        times = (f"{row.old_ms:.2f}", f"{row.new_ms:.2f}", f"{row.machine_ratio:.3f}")
        yield row.contender, row.case, *times, ratio, row.verdict.value


main = command(_main, _parser, lambda arguments: arguments.json or not (arguments.output or arguments.report))

if __name__ == "__main__":
    sys.exit(start("bench"))
