"""Figures of a verification, as a record holds them, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rest_deploy.artifact.info import ArtifactInfo


def figures(verification: Mapping[str, Any]) -> str:
    """The worst of them, of each output."""
    outputs: dict[str, list[Mapping[str, Any]]] = {}
    for case in verification["cases"]:
        outputs.setdefault(case.get("output", ""), []).append(case)
    sizes = max(map(len, outputs.values()))
    told = [_worst(f" of {name}" if name else "", cases) for name, cases in outputs.items()]
    return "; ".join([f"against {verification['reference']} at {sizes} sizes", *told])


def _worst(of: str, cases: Sequence[Mapping[str, Any]]) -> str:
    worst = max(cases, key=lambda case: float(case["max_error"]))
    own = worst["reference_error"]
    return f"largest error{of} {worst['max_error']:.2g} at {worst['batch']}x{worst['height']}x{worst['width']}" + (
        f", where PyTorch float32 has {own:.2g}" if own is not None else ""
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
