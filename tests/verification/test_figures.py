"""Figures of planted differences, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rest_deploy.errors import VerificationError
from rest_deploy.verification.figures import accuracy_of, best_classes, kl_divergences, measure_images, measure_logits

EXACT = np.array([[4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0], [0.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0]])


def _changed(change: NDArray[np.float64]) -> NDArray[np.float64]:
    return EXACT + change


def test_equal_logits() -> None:
    figures = measure_logits(EXACT, EXACT)
    assert (figures.max_error, figures.mean_error, figures.rms_error, figures.kl_divergence) == (0, 0, 0, 0)
    assert (figures.images, figures.top1_agreement, figures.top5_agreement) == (2, 1.0, 1.0)
    assert figures.cosine == pytest.approx(1.0)
    assert (figures.logit_scale, figures.logit_std) == (7.0, pytest.approx(EXACT.std()))


def test_a_scaled_logit() -> None:
    ours = EXACT.copy()
    ours[1, 1] *= 1.5  # 7 -> 10.5
    figures = measure_logits(ours, EXACT)
    assert figures.max_error == pytest.approx(3.5)
    assert figures.mean_error == pytest.approx(3.5 / 14)
    assert figures.rms_error == pytest.approx(3.5 / np.sqrt(14))
    assert figures.top1_agreement == 1.0
    dot, own, theirs = ours[1] @ EXACT[1], np.linalg.norm(ours[1]), np.linalg.norm(EXACT[1])
    assert figures.cosine == pytest.approx(dot / own / theirs)


def test_a_swapped_pair() -> None:
    ours = EXACT.copy()
    ours[0, [0, 6]] = ours[0, [6, 0]]  # its best class is now its worst
    figures = measure_logits(ours, EXACT)
    assert figures.max_error == 6.0
    assert figures.top1_agreement == 0.5
    assert figures.top5_agreement == pytest.approx((4 / 5 + 1) / 2)


def test_kl_divergence_of_two_known_distributions() -> None:
    exact, ours = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]])
    assert kl_divergences(ours, exact) == pytest.approx([0.25 * np.log(2)])
    assert kl_divergences(ours + 3.0, exact - 5.0) == pytest.approx([0.25 * np.log(2)])  # a softmax sees no shift
    other = np.log([[0.125, 0.125, 0.75]])  # the other way round it is 0.75 ln 3 - 0.375 ln 2
    assert kl_divergences(other, exact) == pytest.approx([1.25 * np.log(2) - 0.25 * np.log(3)])
    figures = measure_logits(np.vstack([ours, exact]), np.vstack([exact, exact]))
    assert figures.kl_divergence == pytest.approx(0.125 * np.log(2))
    assert figures.max_kl_divergence == pytest.approx(0.25 * np.log(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_agrees_with_nothing(bad: float) -> None:
    ours = EXACT.copy()
    ours[0, 2] = bad
    figures = measure_logits(ours, EXACT)
    assert figures.top1_agreement == 0.5
    assert figures.top5_agreement == 0.5
    assert not figures.max_error <= 1e9
    assert not figures.kl_divergence <= 1e9


def test_of_ties_the_lower_class_counts() -> None:
    assert best_classes(np.array([[1.0, 2.0, 2.0]])).tolist() == [[1, 2, 0]]


def test_another_number_of_classes() -> None:
    with pytest.raises(VerificationError, match=r"shape \(2, 6\), the reference \(2, 7\)"):
        measure_logits(EXACT[:, :6], EXACT)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_agrees_with_what_is_no_number(bad: float) -> None:
    exact = EXACT.copy()
    exact[0, 0] = bad  # its best class, if it has one
    with np.errstate(invalid="ignore"):
        for ours in (EXACT, exact):
            figures = measure_logits(ours, exact)
            assert (figures.top1_agreement, figures.top5_agreement) == (0.5, 0.5)
            assert not figures.max_error <= 1e9


def test_accuracy_by_class_and_what_is_taken_for_what() -> None:
    logits = np.eye(7)[[0, 0, 1, 2, 2, 2]]
    logits[5] = np.nan  # is wrong, and taken for nothing
    found = accuracy_of(logits, [0, 1, 1, 2, 0, 2])
    assert found is not None
    assert found.top1 == 0.5
    assert found.by_class == ((0, 2, 1), (1, 2, 1), (2, 2, 1))
    assert set(found.confused) == {(0, 2, 1), (1, 0, 1)}
    assert accuracy_of(logits, [0, 1, None, 2, 0, 2]) is None


def test_images_are_listed_by_how_sure_the_reference_was() -> None:
    exact = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    ours = exact.copy()
    ours[[0, 1]] = ours[[0, 1]][:, ::-1]
    ours[2, 0] += 0.5
    found = measure_images(None, ours, exact, names=list("abcd"), classes=[0, 1, 0, 1], reference_error=0.1, maps={})
    assert [(flip.image, flip.margin) for flip in found.flips] == [("a", 3.0), ("b", 1.0)]
    assert [wrong.image for wrong in found.wrong] == ["a", "c"]  # of c the reference is wrong too
    assert [worst.image for worst in found.worst] == ["a", "b", "c", "d"]
    assert found.figures.reference_error == 0.1
