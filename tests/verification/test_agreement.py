"""Answers on images against FP32's: planted differences come out with the right figures and fail the budget."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rest_deploy.errors import ConfigError
from rest_deploy.specs import Precision
from rest_deploy.verification import BUDGETS, Budget, Pictures

BATCHES = [np.full((2, 3, 4, 4), value, np.float32) for value in (1.0, 2.0, 3.0)]


def _logits(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.arange(5.0) * batch[:, 0, 0, :1]


STD = np.concatenate([_logits(batch) for batch in BATCHES]).std()


def test_equal_answers_agree() -> None:
    agreement = Pictures(_logits, BATCHES).compare(_logits)
    assert (agreement.images, agreement.top1_agreement, agreement.max_error, agreement.rms_error) == (6, 1.0, 0.0, 0.0)
    assert agreement.cosine == pytest.approx(1)
    assert Budget(1.0, 1e-9).failures(agreement) == []


def test_a_flipped_image_and_its_error_are_measured() -> None:
    def flipped(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _logits(batch).copy()
        if batch[0, 0, 0, 0] == 2.0:
            logits[1, [3, 4]] = logits[1, [4, 3]]
        return logits

    agreement = Pictures(_logits, BATCHES).compare(flipped)
    assert agreement.top1_agreement == pytest.approx(5 / 6)
    assert agreement.max_error == pytest.approx(2 / STD)
    assert agreement.rms_error == pytest.approx(np.sqrt(8 / 30) / STD)
    assert Budget(0.9, 10).failures(agreement) == ["top-1 agreement 83.33% of 6 images is under 90.00%"]
    assert len(Budget(0.9, 0.1).failures(agreement)) == 2
    assert Budget(None, 10).failures(agreement) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_numbers_agree_with_nothing(bad: float) -> None:
    agreement = Pictures(_logits, BATCHES).compare(lambda batch: _logits(batch) * bad)
    assert agreement.top1_agreement == 0
    assert len(Budget(0.5, 1e9).failures(agreement)) == 2


def test_the_first_images_alone() -> None:
    assert Pictures(_logits, iter_again(BATCHES)).first(2).compare(_logits).images == 4


class iter_again:
    def __init__(self, batches: list[NDArray[np.float32]]) -> None:
        self._batches = batches

    def __iter__(self) -> object:
        return (batch.copy() for batch in self._batches)


@pytest.mark.parametrize(("agreement", "error"), [(1.5, 0.1), (-0.1, 0.1), (0.9, 0.0), (0.9, np.nan)])
def test_budgets_that_cannot_be_meant(agreement: float, error: float) -> None:
    with pytest.raises(ConfigError, match=r"is .*; accepted: a number"):
        Budget(agreement, error)


def test_every_narrow_precision_has_a_budget() -> None:
    assert set(BUDGETS) == set(Precision) - {Precision.FP32}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_agrees_with_a_reference_that_gives_no_numbers(bad: float) -> None:
    def broken(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.where(batch[:, 0, 0, :1] == 2.0, bad, _logits(batch))

    for candidate in (_logits, broken):
        with np.errstate(invalid="ignore"):
            agreement = Pictures(broken, BATCHES).compare(candidate)
        assert agreement.top1_agreement == pytest.approx(2 / 3)
        assert len(Budget(0.9, 1e9).failures(agreement)) == 2


def test_no_budget_lets_an_infinite_error_pass() -> None:
    agreement = Pictures(_logits, BATCHES).compare(lambda batch: _logits(batch) + np.inf)
    assert len(Budget(None, 1e9).failures(agreement)) == 1
