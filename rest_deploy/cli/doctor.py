"""rest-doctor: what is installed, and what could be exported and run on this machine."""

from __future__ import annotations

import argparse
import json
import sys

from rest_deploy.cli.doctor_text import report_text
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import FAILED, OK, clean, command, parser, progress_display
from rest_deploy.doctor import Demand, examine
from rest_deploy.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    made = parser("rest-doctor", "Show what is installed, and what could be exported and run on this machine.")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--require", action="append", type=_demand, default=[], metavar="ARTIFACT[:cpu|:cuda|:export]",
        help="exit with 1 unless this artifact of the table, such as onnx, onnx:cuda or trt-rtx, can be run here, or "
        "made; without a device on the CPU, an engine on the GPU, or where there is none, built; may be repeated",
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
        print(report_text(report))
    for why in filter(None, unmet.values()):
        print(f"error: {clean(why)}", file=sys.stderr)
    return FAILED if any(unmet.values()) else OK


main = command(_main, _parser, lambda arguments: arguments.json or not arguments.require)

if __name__ == "__main__":
    sys.exit(start("doctor"))
