"""rest-doctor: what is installed, and what could be exported and run on this machine."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from typing import Any

from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import FAILED, OK, clean, command, parser, progress_display
from rest_deploy.doctor import Demand, examine
from rest_deploy.doctor.records import ABILITIES, CUDA, Package, Possible, Provider, Report
from rest_deploy.errors import ConfigError, counted


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-doctor", "Show what is installed, and what could be exported and run on this machine.")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--require", action="append", type=_demand, default=[], metavar="ARTIFACT[:cpu|:cuda|:export]",
        help="exit with 1 unless this machine can run an artifact of the table (onnx, onnx:cuda) or export it "
        "(trt-rtx:export); alone: run it on the CPU, an engine on the GPU or, without one, build it; may be repeated",
    )  # fmt: skip
    return made


def _demand(text: str) -> Demand:
    try:
        return Demand.parse(text)
    except ConfigError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _main(arguments: argparse.Namespace) -> int:
    with progress_display("looking") as progress:
        report = examine(arguments.command_line, progress)
    unmet = {str(demand): demand.unmet(report) for demand in arguments.require}
    if arguments.json:
        required = [{"artifact": name, "unmet": why} for name, why in unmet.items()]
        print(json.dumps({**report.to_dict(), "required": required}, indent=2))
    else:
        print(_report_text(report))
    for why in filter(None, unmet.values()):
        print(f"error: {clean(why)}", file=sys.stderr)
    return FAILED if any(unmet.values()) else OK


_WIDTH = 100
_CELLS = {Possible.YES: "yes", Possible.NO: "no", Possible.NEVER: "-", Possible.UNKNOWN: "?"}
_NAME, _FACT, _VERSION = 22, 12, 14
_PACKAGE = len("onnxruntime-ep-nv-tensorrt-rtx")  # the longest
_COLUMNS = (10, 33, 7, 11, 11, 0)
#: Commands are not broken over lines, so that they can be copied.
_COMMAND = re.compile(r"""pip (?:un)?install(?: --[\w-]+)* (?:"[^"]*"|'[^']*'|\S+)""")
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
_HARD_SPACE = "\0"


def _report_text(report: Report) -> str:
    """The report, in groups of lines of at most 100 columns."""
    groups = {
        "System": _system(report),
        "Packages": [line for package in report.packages for line in _package(package)],
        "Devices": _devices(report),
        "Artifacts": _artifacts(report),
    }
    return "\n\n".join("\n".join([title, *lines]) for title, lines in groups.items())


def _system(report: Report) -> list[str]:
    told = report.environment
    processors = len(told["affinity"]) or told["logical_cpus"] or 1
    usable = f"{counted(told['physical_cores'], 'core')}, {counted(processors, 'processor')} usable"
    quota = f", limited to the time of {told['cpu_quota']:g}" if told["cpu_quota"] is not None else ""
    facts = {
        "rest-deploy": told["packages"].get("rest-deploy", "not installed, run from its folder"),
        "Python": f"{told['python']} ({report.executable})",
        "system": told["os"],
        "CPU": f"{told['cpu']}, {usable}{quota}",
        "memory": f"{told['memory_mib']} MiB" if told["memory_mib"] is not None else "not known",
        "8-bit sums": _integers(report),
        **told["variables"],
    }
    return [line for name, fact in facts.items() for line in _lines(f"{clean(name):<{_FACT}}", fact)]


def _integers(report: Report) -> str:
    if report.integers.saturate is None:
        return f"not known: {report.integers.problem}"
    if report.integers.saturate:
        return "saturate"
    return "exact"


def _package(package: Package) -> list[str]:
    name = package.module if package.module.startswith("tensorrt") else package.name  # of one name are several
    start = f"{clean(name):<{_PACKAGE}} {clean(package.version or ''):<{_VERSION}}"
    return _lines(start, f"{package.state.value}{': ' if package.note else ''}{package.note}")


def _devices(report: Report) -> list[str]:
    drivers = dict.fromkeys(str(gpu["driver"]) for gpu in report.environment["gpus"] if gpu["driver"])
    cuda = [f"CUDA {report.gpus.driver_cuda}"] if report.gpus.driver_cuda else []
    note = report.environment["gpus_note"]
    unknown = "not found" if report.gpus.absent else "not known"
    rows = [("NVIDIA driver", ", ".join([*drivers, *cuda]) or f"{unknown} ({note})")]
    for gpu in report.gpus.found:
        rows.append((f"cuda:{gpu.index}", f"{gpu}, {gpu.memory_bytes >> 20} MiB"))
    if not report.gpus.found:
        rows += [("by NVML", f"{gpu['name']} ({gpu['compute_capability']})") for gpu in report.environment["gpus"]]
    if drivers and note:
        rows.append(("not known", note))
    if report.gpus.problem and (not report.gpus.absent or report.artifacts_problem):  # else it is a missing step
        rows.append(("GPU", report.gpus.problem))
    rows += [(provider.name, _provider(provider, report)) for provider in report.providers]
    return [line for name, fact in rows for line in _lines(f"{clean(name):<{_NAME}}", fact)]


def _provider(provider: Provider, report: Report) -> str:
    if provider.problem and provider.device == CUDA and report.gpus.absent:
        return "does not run without a GPU"
    return f"does not run: {provider.problem}" if provider.problem else "runs"


def _artifacts(report: Report) -> list[str]:
    if report.artifacts_problem:
        return _lines("", f"the artifacts cannot be listed: {report.artifacts_problem}")
    lines, steps, notes = [_row("artifact", "", "export", "run on cpu", "run on gpu", "missing step")], list[str](), []
    for artifact in report.artifacts:
        abilities = [artifact.abilities[name] for name in ABILITIES]
        missing = [step for own in abilities if own.possible is not Possible.NEVER for step in own.steps]
        steps += [step for step in dict.fromkeys(missing) if step not in steps]  # each is told once, by its number
        numbers = ", ".join(str(number) for number, step in enumerate(steps, 1) if step in missing)
        lines.append(_row(artifact.key, artifact.title, *(_CELLS[own.possible] for own in abilities), numbers))
        notes += [f"{artifact.key}: {note}" for note in dict.fromkeys(own.note for own in abilities) if note]
    for number, step in enumerate(steps, 1):
        lines += _lines(f"{number:>2}", step)
    return lines + [line for note in notes for line in _lines(" *", note)]


def _row(*cells: str) -> str:
    padded = (f"{clean(cell):<{width}}" for cell, width in zip(cells, _COLUMNS, strict=True))
    return f"  {' '.join(padded)}".rstrip()


def _lines(start: str, text: str) -> list[str]:
    """A name and what is told of it, indented, and broken into lines between words but not within commands."""
    kept = _COMMAND.sub(lambda match: match[0].replace(" ", _HARD_SPACE), clean(text))
    first = f"  {start} "
    indent = " " * len(first)
    lines = textwrap.wrap(kept, _WIDTH, initial_indent=first, subsequent_indent=indent, **_WHOLE_WORDS)
    return [line.replace(_HARD_SPACE, " ") for line in lines] or [first.rstrip()]


main = command(_main, _parser, lambda arguments: arguments.json or not arguments.require)

if __name__ == "__main__":
    sys.exit(start("doctor"))
