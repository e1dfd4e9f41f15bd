"""The check itself is checked: planted errors of known size come out with the right figures, and fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError
from rest_deploy.specs import ImageSize, Precision
from rest_deploy.verification import CASES, TOLERANCES, Case, Comparison, measure, require, synthetic_images

CASE = Case(4, ImageSize(9, 12))


def _exact(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ten logits that depend on the image, well apart."""
    return np.arange(10.0) + np.abs(batch.astype(np.float64)).mean(axis=(1, 2, 3))[:, None]


def _measure(candidate: object, yardstick_error: float = 0.0) -> Comparison:
    return measure(
        candidate,  # type: ignore[arg-type]
        _exact,
        lambda batch: _exact(batch) + yardstick_error,
        channels=3,
        precision=Precision.FP32,
        cases=[CASE],
    )


def test_equal_outputs_pass() -> None:
    comparison = _measure(_exact)
    (figures,) = comparison.cases
    assert comparison.passed
    assert (figures.max_error, figures.mean_error, figures.top1_agreement, figures.top5_agreement) == (0, 0, 1, 1)
    assert figures.cosine == pytest.approx(1, abs=1e-12)


def test_a_shifted_logit_is_measured_and_fails() -> None:
    def shifted(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[1, 3] += 0.5
        return logits

    comparison = _measure(shifted)
    (figures,) = comparison.cases
    assert figures.max_error == pytest.approx(0.5)
    assert figures.mean_error == pytest.approx(0.5 / 40)
    assert comparison.failures == [f"4x9x12: largest error 0.5 is over {figures.limit(TOLERANCES[Precision.FP32]):.3g}"]
    with pytest.raises(VerificationError, match=r"thing disagrees with the PyTorch model; 4x9x12"):
        require(comparison, "thing")


def test_a_swapped_pair_is_seen_in_the_agreements() -> None:
    def swapped(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[0, [0, 9]] = logits[0, [9, 0]]
        return logits

    (figures,) = _measure(swapped).cases
    assert figures.top1_agreement == 0.75
    assert figures.top5_agreement == pytest.approx(0.75 + 0.25 * 0.8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_no_number_fails(bad: float) -> None:
    comparison = _measure(lambda batch: _exact(batch) * bad)
    assert not comparison.passed


def test_the_yardstick_widens_what_is_allowed() -> None:
    off = _measure(lambda batch: _exact(batch) + 0.019, yardstick_error=0.01)
    too_far = _measure(lambda batch: _exact(batch) + 0.021, yardstick_error=0.01)
    assert off.passed
    assert not too_far.passed


def test_another_number_of_classes_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"logits of shape \(4, 9\), the reference \(4, 10\)"):
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
    """An infinite logit has an infinite tolerance, and an error that is within it."""

    def broken(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = _exact(batch)
        logits[2, 5] = bad
        return logits

    with np.errstate(invalid="ignore"):
        comparison = measure(broken if same else _exact, broken, broken, channels=3, precision=precision, cases=[CASE])
    (failure,) = comparison.failures
    assert "not finite" in failure
    assert comparison.cases[0].top1_agreement <= 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_yardstick_that_is_no_number_allows_nothing(bad: float) -> None:
    (failure,) = _measure(lambda batch: _exact(batch) + 0.5, yardstick_error=bad).failures
    assert "not finite" in failure


def test_no_limit_lets_an_infinite_error_pass() -> None:
    comparison = _measure(lambda batch: _exact(batch) + np.inf)
    assert not replace(comparison, spread=np.inf).passed
    assert replace(_measure(lambda batch: _exact(batch) + 1e9), spread=np.inf).passed
