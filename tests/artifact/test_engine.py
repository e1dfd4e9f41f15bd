"""The engine's part of a manifest: it comes back as it was written, and says how to build the engine again."""

import json
import shlex

import pytest

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.profile import Profile

PLAN, SOURCE = "0123456789abcdef" * 4, "f" * 64


def make_record(**changes):
    """A record with a value other than the default in every field."""
    values = {
        "library": "trt-rtx",
        "version": "1.7.1.116",
        "targets": ("sm86", "sm120"),
        "gpu": "NVIDIA GeForce RTX 4090",
        "profiles": (Profile.parse("1x32x32:1x224x224:8x640x640"), Profile.parse("224:224:4x224x224")),
        "plan_sha256": PLAN,
        "plan_bytes": 54_035_484,
        "source_sha256": SOURCE,
        "source_verification": {"reference": "PyTorch float64", "cases": [{"max_error": 1e-6}]},
        "layers": {"stem": {"fp32": 3}, "stage1": {"fp16": 7, "fp32": 2}},
        "activation_bytes": 20_500_480,
        "options": {"tf32": True, "workspace_mib": 512},
        "why": "TensorRT is not installed",
        "command": ("--model", "rest_small", "--checkpoint", "my weights.pth"),
        "version_compatible": True,
        "hardware_compatibility": "ampere+",
        "not_run": "no GPU here",
    }
    return EngineRecord(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"library": "trt", "targets": ("sm89",)},
        {"gpu": None},
        {"source_verification": None},
        {"activation_bytes": None},
        {"options": {}, "command": (), "layers": {}, "why": ""},
        {"command": None},
        {"version_compatible": False, "hardware_compatibility": "none", "not_run": None},
        {"profiles": (Profile.parse("1:1:1"),)},
    ],
)
def test_json_round_trip(changes):
    record = make_record(**changes)
    assert EngineRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_the_dict_is_plain():
    values = make_record().to_dict()
    assert values["profiles"][1] == {"min": [1, 224, 224], "opt": [1, 224, 224], "max": [4, 224, 224]}
    assert values["targets"] == ["sm86", "sm120"]
    assert values["command"][-1] == "my weights.pth"


@pytest.mark.parametrize("field", sorted(make_record().to_dict()))
def test_a_missing_field_is_named(field):
    values = make_record().to_dict()
    del values[field]
    with pytest.raises(KeyError, match=f"'{field}'"):
        EngineRecord.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("library", "tensorflow", "library 'tensorflow'; known: trt, trt-rtx"),
        ("library", None, "library None"),
        ("profiles", [], "no profiles"),
        ("profiles", None, "NoneType"),
        ("profiles", [[1, 2, 3]], "list indices"),
        ("profiles", [{"min": [1, 1, 1], "opt": [1, 2, 1], "max": [1, 1, 1]}], "its height goes 1, 2, 1"),
        ("plan_sha256", PLAN[:-1], "is no SHA-256"),
        ("plan_sha256", PLAN.upper(), "is no SHA-256"),
        ("plan_sha256", None, "None is no SHA-256"),
        ("source_sha256", "g" * 64, "is no SHA-256"),
        ("plan_bytes", None, r"int\(\)"),
        ("plan_bytes", "many", "invalid literal"),
        ("targets", None, "None is no list of words"),
        ("targets", "sm86", "'sm86' is no list of words"),
        ("targets", [86], r"\[86\] is no list of words"),
        ("command", "--model rest_small", "is no list of words"),
        ("layers", {"stem": {"fp32": []}}, r"int\(\)"),
        ("layers", {"stem": {"fp32": "x"}}, "invalid literal"),
        ("source_verification", 0.1, "not iterable"),
        ("options", 3, "not iterable"),
        ("activation_bytes", [], r"int\(\)"),
        ("version_compatible", "false", "version_compatible is 'false'"),
        ("version_compatible", 1, "version_compatible is 1"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field, value, said):
    with pytest.raises((TypeError, ValueError), match=said):
        EngineRecord.from_dict({**make_record().to_dict(), field: value})


@pytest.mark.parametrize(
    ("record", "arguments", "line"),
    [
        (
            make_record(),
            {},
            "rest-export --model rest_small --checkpoint 'my weights.pth' --format trt-rtx --target sm86,sm120 "
            "--output a.engine",
        ),
        (make_record(command=()), {"target": "sm89"}, "rest-export --format trt-rtx --target sm89 --output a.engine"),
        (make_record(command=()), {"library": "trt"}, "rest-export --format trt --output a.engine"),
        (make_record(command=(), library="trt"), {}, "rest-export --format trt --output a.engine"),
        (
            make_record(command=(), library="trt", targets=("sm89",)),
            {"library": "trt-rtx"},
            "rest-export --format trt-rtx --target sm89 --output a.engine",
        ),
    ],
    ids=["as it was", "another target", "another library", "TensorRT", "to RTX"],
)
def test_the_line_that_rebuilds(record, arguments, line):
    assert record.rebuild("a.engine", **arguments) == line


def test_what_no_line_can_ask_for_is_told_in_words():
    said = make_record(command=None).rebuild("a.engine")
    assert said == "rest_deploy.export() in Python, as it was made; its request has no command line"


@pytest.mark.parametrize("path", ["my engines/a.engine", "it's.engine", "$(rm).engine", "a;b.engine"])
def test_the_line_survives_a_shell(path):
    words = shlex.split(make_record().rebuild(path))
    assert words[0] == "rest-export"
    assert words[words.index("--output") + 1 :] == [path]
    assert words[words.index("--checkpoint") + 1] == "my weights.pth"
