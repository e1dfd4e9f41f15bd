"""Artifacts on synthetic images of many sizes, against one reference whose answers are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rest_deploy.errors import RestDeployError
from rest_deploy.verification.cases import Case
from rest_deploy.verification.comparison import CaseFigures, Comparison
from rest_deploy.verification.reference import Reference
from rest_deploy.verification.subjects import OpenReference, Subject


@dataclass(frozen=True)
class SyntheticResult:
    """One artifact's figures.

    Args:
        comparison: The figures.
        errors: Cases that it did not run, in words.
        reference: Whose images they are of.
    """

    comparison: Comparison
    errors: tuple[str, ...]
    reference: Reference


def allowed_spread(subject: Subject, asked: float | None) -> float | None:
    """Largest error allowed, in standard deviations of the logits: what was asked for, or what the artifact's own
    export was allowed; None for the tolerance of its precision.
    """
    plan = subject.info.precision_plan
    return asked if asked is not None else plan.spread if plan is not None else None


def on_synthetic(
    reference: OpenReference,
    subjects: Sequence[Subject],
    cases: Sequence[Case] | None,
    *,
    spread: float | None,
    seed: int,
    report: Callable[[float, str], None],
) -> dict[str, SyntheticResult]:
    """Measure every artifact.

    Args:
        reference: What is right.
        subjects: The artifacts.
        cases: Batches and sizes; None for each artifact's own.
        spread: Largest error, in standard deviations, in place of the tolerance of a precision.
        seed: Of the images.
        report: Called as it goes on.
    """
    every = list(dict.fromkeys(case for subject in subjects for case in cases or subject.own_cases))
    report(0.0, "the reference on synthetic images")
    channels = int(reference.subject.info.input.shape[1])
    known = Reference(reference.subject.run, None, channels=channels, cases=every, seed=seed)
    measured = {p: known.measured_by(reference.yardstick(p)) for p in {subject.info.precision for subject in subjects}}
    found = {}
    for number, subject in enumerate(subjects):
        report(number / len(subjects), f"{subject.name} on synthetic images")
        found[subject.name] = _compare(subject, measured[subject.info.precision], cases or subject.own_cases, spread)
    return found


def _compare(subject: Subject, known: Reference, cases: Sequence[Case], spread: float | None) -> SyntheticResult:
    figures: list[CaseFigures] = []
    errors = []
    for case in cases:
        try:
            figures += known.compare(subject.run, subject.info.precision, cases=[case]).cases
        except RestDeployError as exc:  # of an engine that was not built for the size; the other sizes are looked at
            errors.append(f"{case}: {exc}")
    none = known.compare(subject.run, subject.info.precision, spread=allowed_spread(subject, spread), cases=[])
    return SyntheticResult(replace(none, cases=tuple(figures)), tuple(errors), known)
