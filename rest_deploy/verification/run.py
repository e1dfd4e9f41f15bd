"""``verify``: artifacts against the checkpoint they were made from, or against another artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rest_deploy.artifact.address import Place, located
from rest_deploy.artifact.files import distinct_names
from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.environment import describe_environment
from rest_deploy.errors import ConfigError, InputError, RestDeployError, counted
from rest_deploy.recipes import Limits
from rest_deploy.specs import LOGITS, SEED, THREADS, ImageSize, StepProgress, input_size
from rest_deploy.values import check
from rest_deploy.verification.blocks import BlockComparison, compare_blocks
from rest_deploy.verification.images import Images, ImagesResult, on_images
from rest_deploy.verification.limits import judge, of_artifact, of_blocks
from rest_deploy.verification.opened import OpenReference, Subject, WeightsChoice, open_reference, open_subject
from rest_deploy.verification.reference import (
    Case,
    CaseFigures,
    Comparison,
    Reference,
    pictures_of,
    synthetic_images,
)
from rest_deploy.verification.result import ArtifactResult, Verification

#: What is refused, by which error, and what to do then.
_SYNTHETIC = ("synthetic images", InputError, "give smaller sizes")
_BLOCK_SIZE = ImageSize(224, 224)


def verify(
    artifacts: str | Place | Sequence[str | Place],
    reference: str | Place,
    *,
    data: str | Path | Images | None = None,
    sizes: Iterable[tuple[int, int] | ImageSize] | None = None,
    cases: Sequence[Case] | None = None,
    synthetic: bool = True,
    per_block: bool = False,
    limits: Limits | None = None,
    device: str | None = None,
    threads: int | None = None,
    choice: WeightsChoice | None = None,
    seed: int = 0,
    command: str | None = None,
    report: StepProgress | None = None,
) -> Verification:
    """Compare artifacts with the checkpoint they were made from, or with another artifact.

    A checkpoint runs in PyTorch on the CPU in float64. What it loses in float32 is the baseline error, by which others
    are judged. On the CPU, ONNX files in FP16, and INT8 ones for TensorRT, are computed with every half value rounded,
    as a GPU would hold it; ONNX Runtime itself does not round there.

    Args:
        artifacts: One or several of what :class:`Predictor` opens.
        reference: ``.pth``, ``.pt`` or ``.safetensors`` checkpoint, or an artifact.
        data: Folder of real images, or :class:`Images`; None for synthetic images alone.
        sizes: (height, width) of synthetic images, and of real ones after the resize; None for :data:`CASES` (of an
            engine, those that it accepts), and for the size of the artifacts' own transform.
        cases: Batches and sizes of synthetic images, in place of ``sizes``.
        synthetic: Whether to use synthetic images.
        per_block: Whether to compare block by block too, and name the block at which a difference begins.
        limits: Limits that replace those of each precision.
        device: Where the artifacts run; None for the CPU, and for the first GPU with an engine.
        threads: CPU threads of a call, of the reference too; None for one per usable core.
        choice: Of the weights, if the reference is a checkpoint; None for those that the artifacts' records name.
        seed: Of the synthetic images, and of the choice of real ones.
        command: The command line, for the record.
        report: Called with the finished share of a step, 0 to 1, and its name.

    Returns:
        The figures; ``passed`` and ``failures`` judge them.

    Raises:
        ConfigError: Nothing to compare, or artifacts of different shapes.
        InputError: The reference would take more memory than is free.
        RestDeployError: One of them cannot be opened.
    """
    threads = check(THREADS, threads, "threads") if threads is not None else None
    seed = check(SEED, seed, "seed")
    given = [artifacts] if isinstance(artifacts, str | Place) else artifacts
    wanted = [located(path) for path in given]
    at, limits = [input_size(size) for size in sizes or ()], limits or Limits()
    _check_request(wanted, cases, limits, images=data is not None, anything=synthetic or per_block or data is not None)
    say = report or (lambda share, step: None)
    with ExitStack() as stack:
        named = zip(distinct_names(wanted), wanted, strict=True)
        subjects = [stack.enter_context(open_subject(name, path, device, threads)) for name, path in named]
        records = [subject.info for subject in subjects]
        opened = open_reference(located(reference), device, threads=threads, choice=choice, records=records)
        known = stack.enter_context(opened)
        for subject in subjects:
            _check_alike(subject, known.subject)
        made, images, blocks = _Synthetic(), None, dict[str, BlockComparison]()
        if synthetic:
            at_cases = cases or [Case(1, size) for size in at] or None
            made = _on_synthetic(known, subjects, at_cases, limits=limits, seed=seed, say=say)
        if data is not None:
            wish = data if isinstance(data, Images) else Images(Path(data))
            needs_classes = limits.max_accuracy_loss is not None
            images = on_images(known, subjects, wish, at, needs_classes=needs_classes, seed=seed, report=say)
        if per_block:
            first = Case(1, at[0] if at else _BLOCK_SIZE)
            blocks = _by_block(known, subjects, synthetic=made, first=first, limits=limits, seed=seed, say=say)
        weights = known.subject.info.weights
        results = tuple(_result(own, weights, made, images, blocks.get(own.name), limits=limits) for own in subjects)
        about, found = known.subject.to_dict(), images.data if images is not None else None
        return Verification(describe_environment(command), about, results, found, seed)


def _check_request(
    artifacts: Sequence[Place], cases: Sequence[Case] | None, limits: Limits, *, images: bool, anything: bool
) -> None:
    """Refuse a request that compares nothing, or has limits that nothing is judged by.

    Raises:
        ConfigError: Says what is missing.
    """
    if not artifacts:
        raise ConfigError("no artifacts were given; a comparison needs at least one")
    if cases is not None and not cases:
        raise ConfigError("no cases were given; a comparison needs at least one")
    if not anything:
        raise ConfigError("neither synthetic nor real images were asked for; give --data, or leave --no-synthetic out")
    if not images and (limits.min_top1_agreement, limits.max_accuracy_loss) != (None, None):
        raise ConfigError("a limit of agreement or accuracy was given without images to judge; give --data DIR")
    for case in cases or ():
        input_size(case.size)


def _check_alike(subject: Subject, reference: Subject) -> None:
    ours, theirs = ((own.info.channels, _outputs(own)) for own in (subject, reference))
    if ours != theirs:
        raise ConfigError(
            f"{subject.path} has {counted(ours[0], 'channel')} and {ours[1]}, {reference.path} {theirs[0]} and "
            f"{theirs[1]}; give the checkpoint it was made from"
        )
    if reference.way not in ((), subject.way):
        raise ConfigError(
            f"{reference.path} takes pictures, and {subject.path} makes its input of them in another way, or not at "
            "all; give the checkpoint"
        )


def _outputs(subject: Subject) -> str:
    """Its outputs, in words."""
    told = [
        f"{own.name} of {counted(int(own.shape[1]), 'channel')} and stride {own.stride}"
        if own.stride is not None
        else counted(int(own.shape[1]), "class")
        if own.name == LOGITS
        else f"{counted(int(own.shape[1]), 'channel')} of {own.name}"
        for own in subject.info.outputs
    ]
    norm = subject.info.feature_norm
    return ", ".join(told) + (f" (feature norm {norm.value})" if norm is not None else "")


@dataclass(frozen=True)
class _Synthetic:
    """Results on synthetic images: the right answers, by the way to the network's input; of each artifact its figures
    and, in words, what it did not run.
    """

    reference: Mapping[tuple[Any, ...], Reference] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    errors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _on_synthetic(
    reference: OpenReference,
    subjects: Sequence[Subject],
    cases: Sequence[Case] | None,
    *,
    limits: Limits,
    seed: int,
    say: StepProgress,
) -> _Synthetic:
    """Measure artifacts on synthetic images of some cases, or of each artifact's own; the reference answers once."""
    say(0.0, "the reference on synthetic images")
    known = dict[tuple[Any, ...], Reference]()
    for way in dict.fromkeys(subject.way for subject in subjects):
        alike = [subject for subject in subjects if subject.way == way]
        every = list(dict.fromkeys(case for subject in alike for case in cases or subject.own_cases))
        known[way] = _answered(reference.subject, alike[0].info, every, seed)
    precisions = {(subject.way, subject.info.precision) for subject in subjects}
    measured = {own: known[own[0]].measured_by(reference.baseline(own[1])) for own in precisions}
    comparisons, errors = {}, {}
    for number, subject in enumerate(subjects):
        say(number / len(subjects), f"{subject.name} on synthetic images")
        allowed, figures, failed = of_artifact(subject.info, limits), list[CaseFigures](), list[str]()
        for case in cases or subject.own_cases:
            try:
                subject.check_memory(case, *_SYNTHETIC)
                against = measured[subject.way, subject.info.precision]
                figures += against.compare(subject.run, allowed, cases=[case]).cases
            except RestDeployError as exc:  # as of an engine that was not built for the size; others are looked at
                failed.append(f"{case}: {exc}")
        comparisons[subject.name] = Comparison(seed, tuple(figures), allowed)
        errors[subject.name] = tuple(failed)
    return _Synthetic(known, comparisons, errors)


def _answered(reference: Subject, info: ArtifactInfo, cases: Sequence[Case], seed: int) -> Reference:
    """The reference's answers to synthetic images of some cases, as an artifact takes them."""
    pictures = pictures_of(info)
    if pictures is not None and reference.way:  # the same way, as was seen to
        pictures = np.asarray
    for case in cases:
        seen = case if reference.way else Case.from_plain(info.network_sizes(*case.sizes))
        reference.check_memory(seen, *_SYNTHETIC)
    channels, padded = reference.info.channels, bool(reference.info.taps.stages)
    return Reference(reference.run, None, channels=channels, cases=cases, seed=seed, padded=padded, pictures=pictures)


def _by_block(
    reference: OpenReference,
    subjects: Sequence[Subject],
    *,
    synthetic: _Synthetic,
    first: Case,
    limits: Limits,
    seed: int,
    say: StepProgress,
) -> dict[str, BlockComparison]:
    """Compare block by block: each artifact on the images of the first case that it failed, else of the first."""
    runs = {subject.name: subject.blocks() for subject in subjects}  # refuse what has no blocks before anything runs
    found = {}
    for number, subject in enumerate(subjects):
        say(number / len(subjects), f"{subject.name} block by block")
        allowed, own = of_artifact(subject.info, limits), synthetic.comparisons.get(subject.name)
        failed = (
            figures.case
            for figures in (own.cases if own is not None else ())
            if any(judge(output, allowed) for output in figures.outputs.values())
        )
        case = next(failed, first)
        for one in (reference.subject, subject):
            one.check_memory(case, *_SYNTHETIC)
        images = synthetic.reference[()].images(case) if synthetic.reference else None
        if images is None:
            images = synthetic_images(np.random.default_rng(seed), case, subject.info.channels)
        exact, baseline = reference.blocks(subject.info.precision)
        lost = baseline(images) if baseline is not None else None
        ours, classifies = runs[subject.name](images), LOGITS in subject.info.taps.names
        allowed = of_blocks(subject.info.recipe, allowed, limits)
        found[subject.name] = compare_blocks(case, ours, exact(images), lost, allowed, classifies=classifies)
    return found


def _result(
    subject: Subject,
    reference: Weights,
    synthetic: _Synthetic,
    images: ImagesResult | None,
    blocks: BlockComparison | None,
    *,
    limits: Limits,
) -> ArtifactResult:
    name = subject.name
    return ArtifactResult(
        about=subject.to_dict(),
        recipe=subject.info.recipe,
        synthetic=synthetic.comparisons.get(name),
        blocks=blocks,
        asked=limits,
        images=images.figures[name] if images is not None else (),
        data=images.data if images is not None else None,
        errors=(*synthetic.errors.get(name, ()), *(images.errors[name] if images is not None else ())),
        other_weights=_other_weights(subject.info.weights, reference),
        name_of=subject.info.label,
        thumbnails=images.thumbnails if images is not None else {},
    )


def _other_weights(own: Weights, reference: Weights) -> str:
    if own.file is None or reference.file is None or own.sha256 == reference.sha256:
        return ""
    made, compared = (f"{weights.file} (SHA-256 {(weights.sha256 or '')[:12]})" for weights in (own, reference))
    return f"it was made from {made}, and is compared with {compared}; give the checkpoint it was made from"
