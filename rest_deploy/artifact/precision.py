"""What an FP16 or INT8 artifact says of its precision: what was kept wider, where ranges come from, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rest_deploy.specs import CalibrationMethod, Int8Target, Precision


@dataclass(frozen=True)
class CalibrationRecord:
    """The images that ranges were taken from.

    Args:
        method: How.
        images: Their names below the folder, in the order they were taken in.
        sha256: Of all their bytes and names.
        seed: Of the choice.
        sizes: Heights and widths they were brought to, as text; empty for their own.
    """

    method: CalibrationMethod
    images: tuple[str, ...]
    sha256: str
    seed: int
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionRecord:
    """How a network was narrowed.

    Args:
        kept: Part of the network -> its precision, of those wider than the artifact's; the parts that are always FP32
            (LayerNorm, softmax to variance) are left out.
        half_io: Whether input and output are float16.
        int8_target: What an INT8 artifact is made for; None for FP16.
        reduced_range: Whether INT8 weights have 7 bits, for CPUs whose 16-bit sums saturate; None where that does not
            matter.
        calibration: Where ranges come from; None where they are measured in every call, or there are none.
        budget: What it was judged by: ``min_top1_agreement`` and ``max_error`` on real images, ``synthetic_max_error``
            where one was asked for.
        agreement: Figures on real images against FP32, or None where there were none.
        judged_images: Names of those images.
        steps: What was kept wider, in order, and what that bought, in words.
        speed: Figures of the comparison with FP32 on this machine, or None where there was none.
    """

    kept: Mapping[str, Precision]
    half_io: bool = False
    int8_target: Int8Target | None = None
    reduced_range: bool | None = None
    calibration: CalibrationRecord | None = None
    budget: Mapping[str, float | None] = field(default_factory=dict)
    agreement: Mapping[str, Any] | None = None
    judged_images: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    speed: Mapping[str, Any] | None = None

    @property
    def spread(self) -> float | None:
        """Largest error on synthetic images that was asked for; None for the precision's own tolerance."""
        return self.budget.get("synthetic_max_error")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of :meth:`from_dict`."""
        values = asdict(self)
        values["kept"] = {part: precision.value for part, precision in self.kept.items()}
        values["int8_target"] = self.int8_target.value if self.int8_target is not None else None
        if self.calibration is not None:
            values["calibration"]["method"] = self.calibration.method.value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrecisionRecord:
        """Read what :meth:`to_dict` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: A field is missing or of the wrong kind.
        """
        target, calibration = values["int8_target"], values["calibration"]
        reduced, half_io = values["reduced_range"], values["half_io"]
        if not isinstance(half_io, bool) or not (reduced is None or isinstance(reduced, bool)):
            raise TypeError(f"half_io is {half_io!r} and reduced_range {reduced!r}")
        return cls(
            kept={str(part): Precision.parse(name) for part, name in values["kept"].items()},
            half_io=half_io,
            int8_target=None if target is None else Int8Target(target),
            reduced_range=reduced,
            calibration=None if calibration is None else _calibration(calibration),
            budget={str(name): None if most is None else float(most) for name, most in values["budget"].items()},
            agreement=None if values["agreement"] is None else dict(values["agreement"]),
            judged_images=tuple(str(name) for name in values["judged_images"]),
            steps=tuple(str(step) for step in values["steps"]),
            speed=None if values["speed"] is None else dict(values["speed"]),
        )


def _calibration(values: Mapping[str, Any]) -> CalibrationRecord:
    return CalibrationRecord(
        method=CalibrationMethod(values["method"]),
        images=tuple(str(name) for name in values["images"]),
        sha256=str(values["sha256"]),
        seed=int(values["seed"]),
        sizes=tuple(str(size) for size in values["sizes"]),
    )
