"""Which parts of a network to blame for what narrowing costs, and the plan that keeps the worst of them wider."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rest_deploy.errors import VerificationError
from rest_deploy.export.precision.plan import PrecisionPlan, display
from rest_deploy.pipeline.judge import Verdict
from rest_deploy.specs import Precision


@dataclass(frozen=True)
class Sensitivity:
    """What one part costs when it alone is narrowed.

    Args:
        part: By the authors' names.
        error: Root mean squared difference of the logits, in standard deviations of them; infinite where they are no
            numbers.
        top1_agreement: Share of images with the same best class.
    """

    part: str
    error: float
    top1_agreement: float


@dataclass(frozen=True)
class Found:
    """A plan within the budget.

    Args:
        plan: The plan.
        verdict: Its figures.
        steps: What was kept wider, in order, and what it bought, in words.
    """

    plan: PrecisionPlan
    verdict: Verdict
    steps: tuple[str, ...] = field(default=())


def sensitivities(
    plan: PrecisionPlan, wider: Precision, measure: Callable[[PrecisionPlan], tuple[float, float]]
) -> dict[str, Sensitivity]:
    """What each narrowed part costs alone, the worst first.

    Args:
        plan: Its narrowed parts are looked at.
        wider: Precision of all the others meanwhile.
        measure: Plan -> root mean squared error and top-1 agreement.
    """
    narrowed = _narrower(plan, wider)
    found = {}
    for part in narrowed:
        error, agreement = measure(plan.changed([other for other in narrowed if other != part], wider))
        found[part] = Sensitivity(display(part), error if math.isfinite(error) else math.inf, agreement)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


def keep_worst(
    plan: PrecisionPlan,
    wider: Precision,
    worst_first: Sequence[str],
    failed: Verdict,
    judge: Callable[[PrecisionPlan], Verdict],
) -> Found:
    """Widen parts, the worst first, until the budget holds.

    Args:
        plan: That is over the budget.
        wider: Precision that parts are kept in.
        worst_first: Parts of the plan.
        failed: Verdict on it.
        judge: Plan -> verdict.

    Raises:
        VerificationError: With all parts but one kept it does not hold.
    """
    verdict, kept = failed, []
    words: list[str] = []
    for part in worst_first[:-1]:
        kept.append(part)
        before, verdict = verdict, judge(plan.changed(kept, wider))
        words.append(f"{display(part)} {wider.value.upper()}: {before.change_to(verdict)}")
        if verdict.passed:
            return Found(plan.changed(kept, wider), verdict, tuple(words))
    precision = next(own for own in plan.parts.values() if own is not Precision.FP32)
    raise VerificationError(
        f"{precision.value} does not hold the budget, whatever parts are kept in {wider.value}: "
        f"{'; '.join(verdict.failures)}; allow more by --max-error or --min-top1-agreement, or export in {wider.value}"
    )


def _narrower(plan: PrecisionPlan, wider: Precision) -> list[str]:
    """Narrowed parts that ``wider`` would widen."""
    return [part for part in plan.narrowed() if plan.parts[part] is not wider]
