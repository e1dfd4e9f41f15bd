"""The judgement of blocks, on outputs of known difference; on files it is in test_verify.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rest_deploy.errors import VerificationError
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import ImageSize, Precision
from rest_deploy.verification import Case
from rest_deploy.verification.blocks import compare_blocks
from rest_deploy.verification.limits import on_synthetic

CASE = Case(1, ImageSize(50, 50))


def test_int8_blocks_are_judged_by_what_most_of_their_values_lose() -> None:
    """On noise a few values lie far outside of the ranges of a file, which is right; other outputs are not."""
    limits = on_synthetic(recipe_of(Precision.INT8))
    exact = np.random.default_rng(0).standard_normal((1, 50, 50))
    exact -= exact.mean()  # else zeros would be further off than their standard deviation
    clipped = np.clip(exact, -1.5, 1.5)
    clipped[0, 0, :4] += 15
    ours = {
        "clipped": clipped,
        "zeros": 0 * exact,
        "shifted": exact + 0.8,
        "other": exact[:, ::-1],
        "classifier": clipped,
    }
    found = compare_blocks(CASE, ours, dict.fromkeys(ours, exact), None, limits)
    verdicts = list(found.verdicts.values())
    assert [verdict.judged_by for verdict in verdicts] == ["rms_error"] * 4 + ["max_error"]
    assert found.blocks["clipped"].max_error > 10  # standard deviations
    assert [verdict.passed for verdict in verdicts] == [True, False, False, False, False]
    assert found.first_over_limit == "zeros"
    by_largest = replace(limits, max_block_rms=None)
    assert compare_blocks(CASE, ours, dict.fromkeys(ours, exact), None, by_largest).first_over_limit == "clipped"


def test_other_blocks_or_shapes_are_refused() -> None:
    one, limits = np.ones((1, 4, 2)), on_synthetic(recipe_of(Precision.FP32))
    with pytest.raises(VerificationError, match="blocks stem, the reference stem, head"):
        compare_blocks(CASE, {"stem": one}, {"stem": one, "head": one}, None, limits)
    with pytest.raises(VerificationError, match=r"block stem: .*\(1, 4, 2\), the reference \(1, 2, 4\)"):
        compare_blocks(CASE, {"stem": one}, {"stem": one.reshape(1, 2, 4)}, None, limits)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reference_that_is_no_number_confirms_no_block(precision: Precision, bad: float) -> None:
    exact = np.random.default_rng(0).standard_normal((1, 50, 50))
    broken = exact.copy()
    broken[0, 3, 4] = bad
    with np.errstate(invalid="ignore"):
        for ours, reference, baseline in ((exact, broken, exact), (broken, broken, broken), (broken, exact, exact)):
            sides = ({"head": side} for side in (ours, reference, baseline))
            assert compare_blocks(CASE, *sides, on_synthetic(recipe_of(precision))).first_over_limit == "head"
