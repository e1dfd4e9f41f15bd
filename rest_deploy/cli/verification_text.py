"""Figures of a verification, as a record holds them, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rest_deploy.errors import ArtifactError, one_line


def figures(verification: Mapping[str, Any]) -> str:
    """The worst of them.

    Raises:
        ArtifactError: They are no figures.
    """
    cases = verification.get("cases")
    if not cases:
        return "no figures"
    try:
        return _worst(verification, cases)
    except (KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(
            f"its figures of the verification cannot be read: {one_line(exc)}; export it again"
        ) from exc


def _worst(verification: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    worst = max(cases, key=lambda case: case["max_error"])
    size = f"{worst['batch']}x{worst['height']}x{worst['width']}"
    return (
        f"against {verification.get('reference')} at {len(cases)} sizes; largest error {worst['max_error']:.2g} "
        f"at {size}, where float32's own is {worst['reference_error']:.2g}"
    )
