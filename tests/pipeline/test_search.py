"""Which parts are to blame, and what is kept because of it, on a network whose costs are known."""

from __future__ import annotations

import math

import pytest

from rest_deploy.errors import VerificationError
from rest_deploy.export.precision.plan import PrecisionPlan
from rest_deploy.pipeline.judge import Verdict
from rest_deploy.pipeline.search import keep_worst, sensitivities
from rest_deploy.specs import Precision
from rest_deploy.verification import Agreement, Budget

COSTS = {"stem": 0.01, "stage1_0.attn": 0.05, "stage1_0.mlp": 0.002, "stage1_0.attn.softmax": 0.4, "head": math.nan}
PLAN = PrecisionPlan({**dict.fromkeys(COSTS, Precision.FP16), "stage1_0.attn.norm": Precision.FP32})


def _error(plan: PrecisionPlan) -> float:
    return sum(COSTS[part] for part in plan.narrowed())


def _judge(plan: PrecisionPlan, allowed: float = 0.02) -> Verdict:
    error = _error(plan)
    agreement = Agreement(100, 1 - error if math.isfinite(error) else 0.0, error, error, 1.0)
    return Verdict(None, agreement, Budget(None, allowed))


def test_each_part_is_looked_at_alone_and_the_worst_comes_first() -> None:
    seen = []

    def measure(plan: PrecisionPlan) -> tuple[float, float]:
        seen.append(plan.narrowed())
        return _error(plan), 0.5

    table = sensitivities(PLAN, Precision.FP32, measure)
    assert list(table) == ["head", "stage1_0.attn.softmax", "stage1_0.attn", "stem", "stage1_0.mlp"]
    assert sorted(seen) == sorted((part,) for part in COSTS)
    assert table["head"].error == math.inf  # no numbers are the worst
    assert (table["stem"].error, table["stage1_0.attn.softmax"].part) == (0.01, "stage1.0.attn.softmax")


def test_the_worst_are_kept_until_the_budget_holds() -> None:
    order = list(sensitivities(PLAN, Precision.FP32, lambda plan: (_error(plan), 1.0)))
    found = keep_worst(PLAN, Precision.FP32, order, _judge(PLAN), _judge)
    assert found.plan.narrowed() == ("stem", "stage1_0.mlp")
    assert found.verdict.passed
    assert found.steps == (
        "head FP32: agreement 0.0% -> 53.8%, largest error nan -> 0.462",
        "stage1.0.attn.softmax FP32: agreement 53.8% -> 93.8%, largest error 0.462 -> 0.062",
        "stage1.0.attn FP32: agreement 93.8% -> 98.8%, largest error 0.062 -> 0.012",
    )


def test_a_budget_that_nothing_holds_is_told() -> None:
    order = list(sensitivities(PLAN, Precision.FP32, lambda plan: (_error(plan), 1.0)))
    with pytest.raises(
        VerificationError, match=r"fp16 does not hold the budget, .* 0\.002 is over 1e-05 .* --max-error"
    ):
        keep_worst(PLAN, Precision.FP32, order, _judge(PLAN), lambda plan: _judge(plan, 1e-5))


def test_int8_falls_back_to_half() -> None:
    plan = PrecisionPlan({"a": Precision.INT8, "b": Precision.INT8, "c": Precision.FP16})
    table = sensitivities(plan, Precision.FP16, lambda p: (float(p.parts["a"] is Precision.INT8), 1.0))
    assert list(table) == ["a", "b"]  # what is half already is not looked at
    good = Verdict(None, None, Budget(None, 1.0))
    found = keep_worst(plan, Precision.FP16, ["a", "b"], good, lambda p: good)
    assert dict(found.plan.parts) == {"a": Precision.FP16, "b": Precision.INT8, "c": Precision.FP16}
