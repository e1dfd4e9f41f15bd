"""Measuring is checked: planted errors of known size come out with the right figures, on noise and on pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import LOGITS, ImageSize, Precision
from rest_deploy.verification import CASES, Case, Comparison, Limits, Pictures, Reference, synthetic_images
from rest_deploy.verification.figures import LogitFigures, Outputs
from rest_deploy.verification.limits import judge, on_synthetic
from rest_deploy.verification.reference import Run

CASE = Case(4, ImageSize(9, 12))


def _exact(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ten logits that depend on the image, well apart."""
    return np.arange(10.0) + np.abs(batch.astype(np.float64)).mean(axis=(1, 2, 3))[:, None]


Logits = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def _run(logits: Logits) -> Run:
    return lambda batch: {"logits": logits(batch)}


def _measure(candidate: Logits, baseline_error: float = 0.0, precision: Precision = Precision.FP32) -> Comparison:
    baseline = _run(lambda batch: _exact(batch) + baseline_error)
    reference = Reference(_run(_exact), baseline, channels=3, cases=[CASE])
    return reference.compare(_run(candidate), on_synthetic(recipe_of(precision)))


def _figures(comparison: Comparison) -> LogitFigures:
    (case,) = comparison.cases
    figures = case.outputs["logits"]
    assert isinstance(figures, LogitFigures)
    return figures


def test_equal_outputs_pass() -> None:
    comparison = _measure(_exact)
    figures = _figures(comparison)
    assert comparison.passed
    assert (figures.max_error, figures.mean_error, figures.top1_agreement, figures.top5_agreement) == (0, 0, 1, 1)
    assert figures.cosine == pytest.approx(1, abs=1e-12)


def test_a_shifted_logit_is_measured_and_fails() -> None:
    def shifted(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[1, 3] += 0.5
        return logits

    comparison = _measure(shifted)
    figures = _figures(comparison)
    assert figures.max_error == pytest.approx(0.5)
    assert figures.mean_error == pytest.approx(0.5 / 40)
    (failure,) = comparison.failures
    assert failure.startswith(f"4x9x12: largest error 0.5 is over {comparison.limits.allowed(figures):.3g} ")
    with pytest.raises(VerificationError, match=r"thing disagrees with the PyTorch model; 4x9x12"):
        comparison.require("thing")


def test_a_swapped_pair_is_seen_in_the_agreements() -> None:
    def swapped(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[0, [0, 9]] = logits[0, [9, 0]]
        return logits

    figures = _figures(_measure(swapped))
    assert figures.top1_agreement == 0.75
    assert figures.top5_agreement == pytest.approx(0.75 + 0.25 * 0.8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_no_number_fails(bad: float) -> None:
    assert not _measure(lambda batch: _exact(batch) * bad).passed
    infinite = _measure(lambda batch: _exact(batch) + bad)
    assert not replace(infinite, limits=Limits(1e9)).passed


def test_the_baseline_error_widens_what_is_allowed() -> None:
    assert _measure(lambda batch: _exact(batch) + 0.019, baseline_error=0.01).passed
    assert not _measure(lambda batch: _exact(batch) + 0.021, baseline_error=0.01).passed


def test_another_number_of_classes_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"4x9x12: .*logits of shape \(4, 9\), the reference \(4, 10\)"):
        _measure(lambda batch: _exact(batch)[:, :9])


def test_cases_cover_what_breaks_exporters() -> None:
    sizes = [case.size for case in CASES]
    assert {case.batch for case in CASES} >= {1, 3}
    assert any(min(s.height, s.width) < 32 for s in sizes)
    assert any(min(s.height, s.width) >= 512 for s in sizes)
    assert any(s.height % 2 and s.width % 2 for s in sizes)
    assert any(s.height != s.width for s in sizes)


def test_synthetic_images_are_seeded_and_not_alike() -> None:
    one, two = (synthetic_images(np.random.default_rng(seed), CASE, 3) for seed in (0, 1))
    assert one.dtype == np.float32
    assert one.shape == (4, 3, 9, 12)
    assert np.array_equal(one, synthetic_images(np.random.default_rng(0), CASE, 3))
    assert not np.allclose(one, two)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("same", [False, True])
def test_a_reference_that_is_no_number_confirms_nothing(bad: float, precision: Precision, same: bool) -> None:
    """An infinite logit would allow an infinite error, and has one."""

    def broken(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[2, 5] = bad
        return logits

    with np.errstate(invalid="ignore"):
        reference = Reference(_run(broken), _run(broken), channels=3, cases=[CASE])
        comparison = reference.compare(_run(broken if same else _exact), on_synthetic(recipe_of(precision)))
    (failure,) = comparison.failures
    assert "not finite" in failure
    assert _figures(comparison).top1_agreement <= 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_baseline_that_is_no_number_allows_nothing(bad: float) -> None:
    (failure,) = _measure(lambda batch: _exact(batch) + 0.5, baseline_error=bad).failures
    assert "not finite" in failure


# ---- pictures

BATCHES = [np.full((2, 3, 4, 4), value, np.float32) for value in (1.0, 2.0, 3.0)]


def _logits(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.arange(5.0) * batch[:, 0, 0, :1]


def _compare(reference: Logits, candidate: Logits) -> LogitFigures:
    figures = Pictures(_run(reference), BATCHES).compare(_run(candidate))[LOGITS]
    assert isinstance(figures, LogitFigures)
    return figures


STD = np.concatenate([_logits(batch) for batch in BATCHES]).std()


def test_equal_answers_agree() -> None:
    agreement = _compare(_logits, _logits)
    assert (agreement.images, agreement.top1_agreement, agreement.max_error, agreement.rms_error) == (6, 1.0, 0.0, 0.0)
    assert agreement.cosine == pytest.approx(1)
    assert judge(agreement, Limits(1e-9, 1.0)) == []


def test_a_flipped_image_is_measured_in_standard_deviations() -> None:
    def flipped(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _logits(batch).copy()
        if batch[0, 0, 0, 0] == 2.0:
            logits[1, [3, 4]] = logits[1, [4, 3]]
        return logits

    agreement = _compare(_logits, flipped)
    assert agreement.top1_agreement == pytest.approx(5 / 6)
    assert agreement.max_error == pytest.approx(2 / STD)
    assert agreement.rms_error == pytest.approx(np.sqrt(8 / 30) / STD)
    assert judge(agreement, Limits(2.01 / STD)) == []
    assert len(judge(agreement, Limits(1.99 / STD))) == 1
    assert len(judge(agreement, Limits(0.1, 0.9))) == 2


def test_logits_that_do_not_differ_have_no_standard_deviation_to_measure_in() -> None:
    agreement = _compare(lambda batch: np.ones((2, 2)), lambda batch: np.full((2, 2), 1.5))
    assert agreement.max_error == 0.5
    assert judge(agreement, Limits(0.6)) == []
    assert len(judge(agreement, Limits(0.4))) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_numbers_agree_with_nothing(bad: float) -> None:
    agreement = _compare(_logits, lambda batch: _logits(batch) * bad)
    assert agreement.top1_agreement == 0
    assert len(judge(agreement, Limits(1e9, 0.5))) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_agrees_with_a_reference_that_gives_no_numbers(bad: float) -> None:
    def broken(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.where(batch[:, 0, 0, :1] == 2.0, bad, _logits(batch))

    for candidate in (_logits, broken):
        with np.errstate(invalid="ignore"):
            agreement = _compare(broken, candidate)
        assert agreement.top1_agreement == pytest.approx(2 / 3)
        assert len(judge(agreement, Limits(1e9, 0.9))) == 2


def test_maps_of_all_images_are_not_held() -> None:
    asked = []

    def reference(batch: NDArray[np.float32]) -> Outputs:
        asked.append(batch[0, 0, 0, 0])
        return {LOGITS: _logits(batch), "stage1": batch}

    pictures = Pictures(reference, BATCHES)
    assert pictures._held is None
    found = pictures.compare(lambda batch: {LOGITS: _logits(batch), "stage1": batch + 1})
    assert asked == [1, 2, 3, 1, 2, 3]
    assert (list(found), pictures.count) == ([LOGITS, "stage1"], 6)
    assert found["stage1"].max_error == 1
    assert Pictures(_run(_logits), BATCHES)._held is not None
    some = pictures.first(2)
    asked.clear()
    some.compare(lambda batch: {LOGITS: _logits(batch), "stage1": batch})
    assert (asked, some.count) == ([], 4)


class _Again:
    """Batches that are made anew whenever they are gone through."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (batch.copy() for batch in BATCHES)


def test_the_first_images_alone() -> None:
    assert Pictures(_run(_logits), _Again()).first(2).compare(_run(_logits))[LOGITS].images == 4
