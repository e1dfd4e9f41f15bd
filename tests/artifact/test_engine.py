"""The engine's part of a manifest: it comes back as it was written, and says how to build the engine again."""

import json
import shlex

import pytest

from rest_deploy.artifact.engine import EngineRecord
from rest_deploy.artifact.profile import Profile
from rest_deploy.errors import ConfigError
from rest_deploy.values import plain, read

PLAN, SOURCE = "0123456789abcdef" * 4, "f" * 64


#: As a verification leaves them.
FIGURES = {
    "reference": "PyTorch float64",
    "passed": True,
    "seed": 0,
    "cases": [
        {
            **{"batch": 1, "height": 224, "width": 224, "max_error": 1e-6, "mean_error": 1e-7, "reference_error": 2e-6},
            **{"logit_scale": 3.0, "logit_std": 1.0, "cosine": 1.0, "kl_divergence": 0.0},
            **{"top1_agreement": 1.0, "top5_agreement": 1.0},
        }
    ],
}

#: As one leaves them of a map.
MAP_CASE = {
    **{"output": "map", "batch": 1, "height": 224, "width": 224, "max_error": 1e-6, "rms_error": 1e-7},
    **{"reference_error": 2e-6, "scale": 3.0, "std": 1.0, "cosine": 1.0},
}


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
        "source_verification": FIGURES,
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
    assert read(EngineRecord, json.loads(json.dumps(plain(record)))) == record


def test_the_dict_is_plain():
    values = plain(make_record())
    assert values["profiles"][1] == {"min": [1, 224, 224], "opt": [1, 224, 224], "max": [4, 224, 224]}
    assert values["targets"] == ["sm86", "sm120"]
    assert values["command"][-1] == "my weights.pth"


@pytest.mark.parametrize("field", sorted(plain(make_record())))
def test_a_missing_field_is_named(field):
    values = plain(make_record())
    del values[field]
    with pytest.raises(ConfigError, match=f"^{field} is missing"):
        read(EngineRecord, values)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("library", "tensorflow", "library is 'tensorflow'; accepted: trt, trt-rtx"),
        ("library", None, "library is None"),
        ("profiles", [], "profiles has 0 values"),
        ("profiles", None, "profiles is None; accepted: a list or tuple"),
        ("profiles", [[1, 2, 3]], r"profiles\[0\] is \[1, 2, 3\]; accepted: an object"),
        ("profiles", [{"min": [1, 1, 1], "opt": [1, 2, 1], "max": [1, 1, 1]}], r"profiles\[0\] .* height goes 1, 2, 1"),
        ("profiles", [{"min": [1, 0, 1], "opt": [1, 2, 1], "max": [1, 1, 1]}], r"profiles\[0\].min\[1\] is 0"),
        ("plan_sha256", PLAN[:-1], "accepted: a SHA-256"),
        ("plan_sha256", PLAN.upper(), "accepted: a SHA-256"),
        ("plan_sha256", PLAN[:-1] + "\n", "accepted: a SHA-256"),
        ("plan_sha256", None, "None; accepted: a SHA-256"),
        ("source_sha256", "g" * 64, "accepted: a SHA-256"),
        ("plan_bytes", None, "plan_bytes is None; accepted: a whole number from 0"),
        ("plan_bytes", "4", "plan_bytes is '4'"),
        ("plan_bytes", 4.0, "plan_bytes is 4.0"),
        ("plan_bytes", True, "plan_bytes is True"),
        ("plan_bytes", -1, "plan_bytes is -1"),
        ("targets", None, "targets is None; accepted: a list or tuple"),
        ("targets", "sm86", "targets is 'sm86'; accepted: a list or tuple"),
        ("targets", [86], r"targets\[0\] is 86"),
        ("targets", ["86"], r"targets\[0\] is '86'; accepted: sm86"),
        ("command", "--model rest_small", "command is '--model rest_small'; accepted: a list or tuple"),
        ("layers", {"stem": {"fp32": []}}, r"layers.stem.fp32 is \[\]"),
        ("layers", {"stem": {"a b": "x"}}, r"layers.stem\['a b'\] is 'x'"),
        ("source_verification", 0.1, "source_verification is 0.1; accepted: an object"),
        ("source_verification", {**FIGURES, "cases": []}, "source_verification.cases has 0 values"),
        *(
            ("source_verification", {**FIGURES, "cases": [*FIGURES["cases"], case]}, rf"cases\[1\]{said}")
            for case, said in (
                (3, " is 3; accepted: an object"),
                ({**FIGURES["cases"][0], "rms_error": 1.0}, ".rms_error is unknown"),
                ({**MAP_CASE, "top1_agreement": 1.0}, ".top1_agreement is unknown"),
                ({key: value for key, value in MAP_CASE.items() if key != "output"}, ".output is missing"),
                ({**MAP_CASE, "scale": "3"}, ".scale is '3'"),
            )
        ),
        ("options", 3, "options is 3; accepted: an object"),
        ("options", {"a": []}, r"options.a is \[\]"),
        ("activation_bytes", [], r"activation_bytes is \[\]"),
        ("activation_bytes", 10**400, "activation_bytes is a number of many digits"),
        ("version", "one", "version is 'one'; accepted: a version"),
        ("hardware_compatibility", "all", "accepted: none, same-cc, ampere"),
        ("version_compatible", "false", "version_compatible is 'false'"),
        ("version_compatible", 1, "version_compatible is 1; accepted: true or false"),
        ("unheard_of", 1, "unheard_of is unknown"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field, value, said):
    with pytest.raises(ConfigError, match=said):
        read(EngineRecord, {**plain(make_record()), field: value})


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
