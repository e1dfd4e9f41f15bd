"""rest-export: make a verified artifact from a model and a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
import typing
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

from rest_deploy.cli.export_text import as_json, plan_text, plans_of, result_text
from rest_deploy.cli.preprocessing_flags import (
    add_preprocessing_flags,
    add_weights_flags,
    number_as,
    preprocessing_change,
    typed,
)
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import OK, clean, command, parser, progress_display
from rest_deploy.export.formats import FORMATS, SOURCE, parse_formats
from rest_deploy.export.options import Declared, declared
from rest_deploy.pipeline import ExportRequest, prepare, run_exports
from rest_deploy.pipeline.request import config_classes
from rest_deploy.specs import Precision


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-export", "Export a ResT for deployment. A file is made only if it agrees with the PyTorch model."
    )
    add = made.add_argument
    _add_options(made, ExportRequest)
    add_weights_flags(made)
    add(
        "--format",
        default=SOURCE,
        metavar="F[,F]",
        type=typed(lambda text: ",".join(parse_formats(text))),
        help=f"what to make: {', '.join(FORMATS)} (default {SOURCE})",
    )
    precision = made.add_mutually_exclusive_group()
    precision.add_argument("--precision", choices=[p.value for p in Precision], help="number format (default fp32)")
    for name in _lower():
        precision.add_argument(
            f"--{name.value}",
            dest="precision",
            action="store_const",
            const=name.value,
            help=f"--precision {name.value}",
        )
    add("-o", "--output", metavar="FILE", help="default: the model's name, here; for several formats without suffix")
    add_preprocessing_flags(made)
    add("--json", action="store_true", help="print what was made as JSON")
    add("--dry-run", action="store_true", help="check the request, say what would be made, and make nothing")
    for kind, title in _groups().items():
        _add_options(made.add_argument_group(title), kind)
    return made


def _lower() -> list[Precision]:
    return [precision for precision in Precision if precision is not Precision.FP32]


def _groups() -> dict[type, str]:
    """Classes of options -> title, each once."""
    titles: dict[type, str] = {}
    for name, kind in config_classes(tuple(FORMATS)).items():
        title = FORMATS[name].title if name in FORMATS else " and ".join(own.value.upper() for own in _lower())
        titles[kind] = f"{titles[kind]} and {title}" if kind in titles else title
    return titles


def _add_options(group: argparse._ActionsContainer, kind: type) -> None:
    """The flags of a dataclass, as its fields declare them."""
    for name, own in declared(kind).items():
        if own.option.help:
            group.add_argument(own.flag, dest=name, help=own.option.help, **_arguments(own))


def _arguments(own: Declared) -> dict[str, Any]:
    """What argparse takes of an option: what the type says, and what it declares beside."""
    kind, option = own.kind, own.option
    if kind is bool:
        return {"action": "store_const", "const": not own.default}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"choices": [member.value for member in kind if member is not own.default]}
    found: dict[str, Any] = {"metavar": option.metavar}
    one = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if typing.get_origin(one) is Annotated:
        found["type"] = number_as(one)
    elif hasattr(one, "parse") and option.read is None:
        found["type"] = one.parse
    found |= option.arguments
    if "type" in found:  # argparse would put words of its own in place of an error's
        found["type"] = typed(found["type"])
    return found


def _given(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Values of a dataclass's options that the arguments give."""
    found: dict[str, Any] = {}
    for name, own in declared(kind).items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if own.option.off and str(value).lower() == "none":
            found[own.option.off] = False
        else:
            found[name] = value if own.option.read is None else own.option.read(value)
    return found


def request_of(arguments: argparse.Namespace) -> ExportRequest:
    """What the command's arguments ask for."""
    options: dict[str, Any] = {}
    for kind in _groups():
        options |= _given(arguments, kind)
    return ExportRequest(
        output=arguments.output,
        format=arguments.format,
        precision=Precision.parse(arguments.precision or Precision.FP32),
        preprocessing=preprocessing_change(arguments),
        options=options,
        **_given(arguments, ExportRequest),
    )


def _main(arguments: argparse.Namespace) -> int:
    if arguments.model is None and arguments.checkpoint is None:
        _parser().error("give --model NAME, --checkpoint FILE or both")
    request = request_of(arguments)
    if arguments.dry_run:
        plans = plans_of(prepare(request))
        print(json.dumps(plans[0] if len(plans) == 1 else plans, indent=2) if arguments.json else plan_text(plans))
        return OK
    with progress_display("exporting") as report:
        results = run_exports(request, report)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"warning: {clean(note)}", file=sys.stderr)
    if arguments.json:
        made = [as_json(result) for result in results]
        print(json.dumps(made[0] if len(made) == 1 else made, indent=2))
    else:
        print("\n\n".join(result_text(result) for result in results))
    return OK


main: Callable[..., Any] = command(_main, _parser, lambda arguments: arguments.json or arguments.dry_run)

if __name__ == "__main__":
    sys.exit(start("export"))
