"""The record of a narrowed network, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rest_deploy.artifact.precision import CalibrationRecord, PrecisionRecord
from rest_deploy.errors import ConfigError
from rest_deploy.specs import CalibrationMethod, Int8Target, Precision
from rest_deploy.values import plain, read

RECORD = PrecisionRecord(
    kept={"stage3.2.attn": Precision.FP16},
    int8_target=Int8Target.TRT,
    calibration=CalibrationRecord(CalibrationMethod.ENTROPY, ("a.png", "b/c.png"), "0" * 64, 3, ("224x224",)),
    budget={"min_top1_agreement": None, "max_error": 0.5},
    agreement={"images": 8, "top1_agreement": 1.0, "max_error": 0.1, "rms_error": 0.01, "cosine": 1.0},
    judged_images=("d.png",),
    steps=("stage3.2.attn FP16: agreement 97.1% -> 99.4%",),
    speed={
        **{"device": "cpu", "size": "1x224x224", "fp32_ms": 3.0, "ms": 2.0},
        **{"speedup": 1.5, "low": 1.4, "high": 1.6, "rounds": 9},
    },
)


@pytest.mark.parametrize("record", [RECORD, PrecisionRecord(kept={}), PrecisionRecord(kept={}, reduced_range=True)])
def test_there_and_back(record: PrecisionRecord) -> None:
    assert read(PrecisionRecord, json.loads(json.dumps(plain(record)))) == record


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
        ("agreement", {"images": 8}),
        ("agreement", {**(RECORD.agreement or {}), "top1_agreement": 2}),
        ("speed", {**(RECORD.speed or {}), "ms": float("nan")}),
        ("calibration", {**plain(RECORD.calibration), "seed": -1}),
    ],
)
def test_damaged_fields_are_told(field: str, value: Any) -> None:
    values = {**plain(RECORD), field: value}
    with pytest.raises(ConfigError, match=rf"^{field}\b"):
        read(PrecisionRecord, values)


def test_missing_fields_are_told() -> None:
    for field in plain(RECORD):
        values = plain(RECORD)
        del values[field]
        with pytest.raises(ConfigError, match=f"^{field} is missing"):
            read(PrecisionRecord, values)
