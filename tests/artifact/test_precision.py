"""The record of a narrowed network, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from rest_deploy.artifact.precision import CalibrationRecord, PrecisionRecord
from rest_deploy.specs import CalibrationMethod, Int8Target, Precision

RECORD = PrecisionRecord(
    kept={"stage3.2.attn": Precision.FP16},
    int8_target=Int8Target.TRT,
    calibration=CalibrationRecord(CalibrationMethod.ENTROPY, ("a.png", "b/c.png"), "0" * 64, 3, ("224x224",)),
    budget={"min_top1_agreement": None, "max_error": 0.5},
    agreement={"images": 8, "top1_agreement": 1.0},
    judged_images=("d.png",),
    steps=("stage3.2.attn FP16: agreement 97.1% -> 99.4%",),
    speed={"speedup": 1.5},
)


@pytest.mark.parametrize("record", [RECORD, PrecisionRecord(kept={}), PrecisionRecord(kept={}, reduced_range=True)])
def test_there_and_back(record: PrecisionRecord) -> None:
    assert PrecisionRecord.from_dict(record.to_dict()) == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kept", {"stem": "fp12"}),
        ("kept", None),
        ("half_io", 1),
        ("reduced_range", "no"),
        ("int8_target", "gpu"),
        ("calibration", {"method": "best"}),
        ("budget", 3),
        ("steps", None),
    ],
)
def test_damaged_fields_are_told(field: str, value: Any) -> None:
    values = {**RECORD.to_dict(), field: value}
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        PrecisionRecord.from_dict(values)


def test_missing_fields_are_told() -> None:
    for field in RECORD.to_dict():
        values = RECORD.to_dict()
        del values[field]
        with pytest.raises(KeyError, match=field):
            PrecisionRecord.from_dict(values)
