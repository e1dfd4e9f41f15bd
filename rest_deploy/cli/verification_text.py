"""Figures of a verification, as a record holds them, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rest_deploy.artifact.info import ArtifactInfo
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


def record_rows(info: ArtifactInfo) -> dict[str, str]:
    """How pictures become inputs and logits scores, and what was done with the weights."""
    steps = info.preprocessing
    rows = {
        "images": str(steps) if steps is not None else "none: the caller makes the input",
        "activation": info.activation.value,
        "notes": "; ".join(info.weights.notes),
    }
    return {name: value for name, value in rows.items() if value}


def assumed(info: ArtifactInfo) -> str:
    """What nobody said when an artifact was made, on one line; empty where all was said."""
    return "; ".join(f"{what}: {value}" for what, value in info.assumed.items())
