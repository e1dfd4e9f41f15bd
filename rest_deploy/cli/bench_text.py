"""What rest-bench prints and writes as tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rest_deploy.benchmarking.regression import Regressions
from rest_deploy.benchmarking.results import BenchmarkReport, CaseResult, Result
from rest_deploy.cli.tables import Table, figure
from rest_deploy.cli.terminal import clean


def text(made: BenchmarkReport) -> str:
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


def tables(made: BenchmarkReport) -> list[Table]:
    """Everything as tables."""
    found = [_case_table(made, case) for case in made.cases]
    found += [_gpu_table(case) for case in made.cases if any(result.gpu is not None for result in case.results)]
    if made.cold:
        found.append(_cold_table(made))
    if made.comparison is not None:
        found.append(_comparison_table(made.comparison))
    return found


def notes(made: BenchmarkReport) -> list[str]:
    """What the tables do not say, a line each."""
    interrupted = ["INTERRUPTED: what is here was measured before"] if made.interrupted else []
    flags = [f"{case.case}: {flag}" for case in made.cases for flag in case.conditions.flags]
    compared = list(made.comparison.notes) if made.comparison is not None else []
    failures = [f"not measured: {failure}" for failure in made.failures]
    return [*_head(made).splitlines(), *interrupted, *flags, *compared, *failures]


_COLUMNS = (
    *("error", "calls", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "images_per_second", "gflops", "share_of_machine"),
)


def rows(made: BenchmarkReport) -> list[Mapping[str, Any]]:
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
    lines = [f"{environment.get('cpu') or 'unknown CPU'}, {settings['threads']} threads"]
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
    title = f"{case.case} (batch x height x width), {case.rounds} rounds"
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


_GPU = ("host_to_host_ms", "compute_ms", "copy_in_ms", "copy_out_ms", "enqueue_ms")


def _gpu_table(case: CaseResult) -> Table:
    head = ("contender", "host to host ms", "compute ms", "copy in ms", "copy out ms", "enqueue ms")
    lines = [(r.contender, *(f"{r.gpu[key]:.3f}" for key in _GPU)) for r in case.results if r.gpu is not None]
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
