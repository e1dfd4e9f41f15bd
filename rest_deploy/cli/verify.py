"""rest-verify: artifacts against the checkpoint they were made from, or against another artifact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rest_deploy.cli.flags import (
    add_preprocessing_flags,
    add_weights_flags,
    number_as,
    preprocessing_change,
    typed,
)
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
from rest_deploy.errors import ConfigError
from rest_deploy.runtimes.registry import device_help
from rest_deploy.specs import BATCH, FACTOR, FRACTION, IMAGES, SEED, THREADS, ImageSize
from rest_deploy.verification import ArtifactResult, Verification
from rest_deploy.verification.figures import Difference, ValueFigures
from rest_deploy.verification.limits import ValueVerdict, judge_values


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-verify",
        "Compare artifacts with the checkpoint they were made from, or with another artifact. Exits with 1 where an "
        "error is over its limit.",
    )
    add = made.add_argument
    add(
        "artifacts",
        nargs="+",
        metavar="ARTIFACT",
        help=f".onnx or .engine file, a checkpoint, or {ON_A_SERVER}; any number",
    )
    add("--reference", required=True, metavar="FILE", help="checkpoint, run in PyTorch float64, or an artifact")
    add(
        "--sizes",
        nargs="+",
        metavar="HxW",
        type=typed(ImageSize.parse),
        help="of synthetic images, and that real ones are brought to (default: six sizes from 1x1 to 512x544)",
    )
    add("--no-synthetic", action="store_true", help="use real images only")
    add("--per-block", action="store_true", help="compare block by block, and name the one where a difference begins")
    add(
        "--threads", type=number_as(THREADS), help="CPU threads of a call (default: one for each core that may be used)"
    )
    add("--device", help=device_help())
    add(
        "--seed",
        type=number_as(SEED),
        default=0,
        help="seed of synthetic images, and of the choice of real ones (default 0)",
    )
    _add_images(made.add_argument_group("real images"))
    _add_limits(made.add_argument_group("limits (default: by precision, docs/measuring.md)"))
    add_weights_flags(made.add_argument_group("weights of the reference (default: those it was made of)"))
    add_output_flags(made)
    add("--benchmark", metavar="FILE.json", type=Path, help="record of rest-bench, to show in the report too")
    return made


def _add_images(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", metavar="DIR", type=Path, help="images; a subfolder for each class tells their classes")
    add("--ground-truth", metavar="FILE", type=Path, help="file with their classes: one line per image, PATH CLASS")
    add("--max-images", metavar="N", type=number_as(IMAGES), help="images at most, chosen by the seed (default all)")
    add("--batch", metavar="N", type=number_as(BATCH), help="images in a call (default 1)")
    add_preprocessing_flags(group)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-error",
        metavar="STD",
        type=number_as(FACTOR),
        help="largest error, in standard deviations of the logits; maps are held to it too",
    )
    add(
        "--min-top1-agreement",
        metavar="SHARE",
        type=number_as(FRACTION),
        help="share of images with the reference's best class, as 0.99",
    )
    add(
        "--max-accuracy-loss",
        metavar="SHARE",
        type=number_as(FRACTION),
        help="loss of top-1 accuracy against the reference, as 0.005",
    )


def _main(arguments: argparse.Namespace) -> int:
    from rest_deploy.verification import Images, Limits, WeightsChoice, verify

    check_outputs(arguments.output, arguments.report)
    limits = Limits(arguments.max_error, arguments.min_top1_agreement, arguments.max_accuracy_loss)
    change, data = preprocessing_change(arguments), None
    if arguments.data is not None:
        batch = 1 if arguments.batch is None else arguments.batch
        data = Images(arguments.data, arguments.ground_truth, change, arguments.max_images, batch)
    elif (arguments.ground_truth, change, arguments.max_images, arguments.batch) != (None,) * 4:
        raise ConfigError("flags for images need images; give --data DIR")
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
    show(
        arguments,
        record,
        text=lambda: _text(found),
        content=lambda: (_tables(found), _notes(found)),
        rows=lambda: _rows(found),
        verification=record,
        benchmark=benchmark,
    )
    if found.interrupted:
        return INTERRUPTED
    return failed(found.failures)


_SHOWN = 10  # flipped images of an artifact and size, in the terminal; the record has more


def _text(found: Verification) -> str:
    """Everything, for a terminal."""
    parts = [_head(found)]
    if found.interrupted:
        parts.append("INTERRUPTED: the figures are of the images before")
    for artifact in found.artifacts:
        parts.append(_about(artifact))
        parts += [table.text() for table in _tables_of(artifact)]
        parts += list(_flips(artifact))
        parts.append(_verdict(artifact))
    if unread := _unread(found):
        parts.append("\n".join(map(clean, unread)))
    return "\n\n".join(parts)


def _unread(found: Verification) -> list[str]:
    """The images that could not be read, a line each."""
    return [f"not read: {why}" for _, why in found.data.skipped] if found.data is not None else []


def _tables(found: Verification) -> list[Table]:
    """Everything as tables."""
    return [table for artifact in found.artifacts for table in _tables_of(artifact, named=True)]


def _rows(found: Verification) -> list[Mapping[str, Any]]:
    """A row for each artifact and case, and for each artifact and size of the images."""
    made: list[Mapping[str, Any]] = []
    for artifact in found.artifacts:
        values = artifact.to_dict()
        for case in values["synthetic"]:
            size = f"{case['batch']}x{case['height']}x{case['width']}"
            made.append(_row(values, f"synthetic {case.get('output', '')}".strip(), size, case))
        for images in values["images"]:
            made.append(_row(values, "images", images["size"] or "", images))
            for own in images.get("maps", ()):
                made.append(_row(values, f"images {own['output']}", images["size"] or "", own))
        for block in (values["blocks"] or {}).get("rows", []):
            made.append(_row(values, f"block {block['block']}", values["blocks"]["case"], block))
    return made


def _notes(found: Verification) -> list[str]:
    """What the tables do not say, a line each."""
    verdicts = [f"{own.about['name']}: {'passed' if own.passed else 'FAILED'}" for own in found.artifacts]
    interrupted = ["INTERRUPTED: the figures are of the images before"] if found.interrupted else []
    return [*_head(found).splitlines(), *interrupted, *verdicts, *found.failures, *_unread(found)]


_COLUMNS = (
    *("max_error", "mean_error", "rms_error", "reference_error", "limit", "cosine", "kl_divergence"),
    *("top1_agreement", "top5_agreement", "flips", "top1_accuracy", "top5_accuracy", "passed"),
)


def _row(artifact: Mapping[str, Any], what: str, size: str, figures: Mapping[str, Any]) -> Mapping[str, Any]:
    named = {"artifact": artifact["name"], "precision": artifact["precision"], "what": what, "size": size}
    return {**named, **{column: figures.get(column) for column in _COLUMNS}}


def _head(found: Verification) -> str:
    reference = found.reference
    lines = [f"reference  {clean(str(reference['name']))}: {clean(str(reference['model']))}, {reference['computed']}"]
    data = found.data
    if data is not None:
        labelled = "classes known" if data.labelled else "classes not known"
        lines.append(f"images     {data.images} of {clean(data.folder)}, {labelled}; {data.transform}")
        if data.note:
            lines.append(f"           {clean(data.note)}")
        for size, accuracy in data.reference.items():
            if accuracy is not None:
                where = f" at {size}" if size is not None else ""
                lines.append(f"           reference{where}: top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%}")
    return "\n".join(lines)


def _about(artifact: ArtifactResult) -> str:
    about = artifact.about
    lines = [
        f"{about['name']}: {about['model']}, {about['format']} {about['precision']} on {about['device']}, "
        f"{about['computed']}"
    ]
    if about["takes"]:
        lines.append(f"takes {about['takes']}")
    if about["assumed"]:
        unsaid = "; ".join(f"{what} {value}" for what, value in about["assumed"].items())
        lines.append(f"assumed when it was made: {unsaid}")
    return "\n".join(clean(line) for line in lines)


def _tables_of(artifact: ArtifactResult, *, named: bool = False) -> Iterator[Table]:
    prefix = f"{artifact.about['name']}: " if named else ""
    if artifact.synthetic is not None and artifact.synthetic.cases:
        yield _synthetic_table(artifact, prefix)
    if artifact.images:
        yield _image_table(artifact, prefix)
    if any(own.maps for own in artifact.images):
        yield _map_table(artifact, prefix)
    if artifact.blocks is not None:
        yield _block_table(artifact, prefix)


def _synthetic_table(artifact: ArtifactResult, prefix: str) -> Table:
    assert artifact.synthetic is not None  # the caller has looked
    of = "each output" if artifact.synthetic.others else "the logits"
    return Table(f"{prefix}synthetic images, errors of {of}", *artifact.synthetic.columns())


def _image_table(artifact: ArtifactResult, prefix: str) -> Table:
    head = ("size", "images", "max error", "mean error", "fp32 error", "cosine", "KL", "top-1 same", "top-5 same",
            "flips", "top-1 right", "top-5 right")  # fmt: skip
    lines = []
    for own in artifact.images:
        figures, right = own.figures, own.accuracy
        lines.append(
            (
                str(own.size or "own"),
                str(figures.images),
                f"{figures.max_error:.2e}",
                f"{figures.mean_error:.2e}",
                figure(figures.reference_error, ".2e"),
                f"{figures.cosine:.7f}",
                f"{figures.kl_divergence:.1e}",
                f"{figures.top1_agreement:.2%}",
                f"{figures.top5_agreement:.2%}",
                str(len(own.flips)),
                figure(right.top1 if right is not None else None, ".2%"),
                figure(right.top5 if right is not None else None, ".2%"),
            )
        )
    return Table(f"{prefix}real images", head, lines)


def _block_table(artifact: ArtifactResult, prefix: str) -> Table:
    blocks = artifact.blocks
    assert blocks is not None  # the caller has looked
    judged = blocks.verdicts
    lines = [(name, *_values_row(own, judged[name])) for name, own in blocks.blocks.items()]
    return Table(
        f"{prefix}block by block at {blocks.case}, errors of each block's output", ("block", *_VALUES), lines, words=1
    )


def _map_table(artifact: ArtifactResult, prefix: str) -> Table:
    lines = [
        (str(images.size or "own"), name, *_values_row(own, judge_values(own, artifact.allowed_of_maps)))
        for images in artifact.images
        for name, own in images.maps.items()
    ]
    return Table(f"{prefix}real images, errors of each map", ("size", "output", *_VALUES), lines)


_VALUES = ("max error", "rms error", "fp32 error", "limit", "")


def _values_row(row: ValueFigures, verdict: ValueVerdict) -> tuple[str, ...]:
    return (
        f"{row.max_error:.2e}",
        f"{row.rms_error:.2e}",
        figure(row.reference_error, ".2e"),
        f"{verdict.limit:.1e}{'' if verdict.judged_by == 'max_error' else ' rms'}",
        "" if verdict.passed else "over the limit",
    )


def _flips(artifact: ArtifactResult) -> Iterator[str]:
    for own in artifact.images:
        if not own.flips:
            continue
        where = f" at {own.size}" if own.size is not None else ""
        lines = [f"best class differs from the reference's{where}, surest first:"]
        lines += [_flip(flip, artifact) for flip in own.flips[:_SHOWN]]
        if len(own.flips) > _SHOWN:
            lines.append(f"  and {len(own.flips) - _SHOWN} more; -o FILE.json and --report show them")
        yield "\n".join(lines)


def _flip(flip: Difference, artifact: ArtifactResult) -> str:
    label = f", is {artifact.name_of(flip.label)}" if flip.label is not None else ""
    classes = f"{artifact.name_of(flip.reference)} -> {artifact.name_of(flip.artifact)}{label}"
    return "  " + clean(f"{flip.image}: {classes} (margin {flip.margin:.3g}, error {flip.error:.3g})")


def _verdict(artifact: ArtifactResult) -> str:
    name = clean(str(artifact.about["name"]))
    if artifact.passed:
        return f"{name}: passed"
    return "\n".join([f"{name}: FAILED", *(f"  {clean(failure)}" for failure in artifact.failures)])


main = command(_main, _parser, lambda arguments: arguments.json or not (arguments.output or arguments.report))

if __name__ == "__main__":
    sys.exit(start("verify"))
