"""What the sections say of what was planted in the records."""

from __future__ import annotations

from typing import Any

from rest_deploy.reporting import render
from tests.reporting import samples
from tests.reporting.pages import Page, read

Record = dict[str, Any]


def _text(verification: Record | None, benchmark: Record | None) -> str:
    return " ".join(read(render(verification, benchmark)).text.replace("\xa0", " ").split())


def _page(verification: Record | None, benchmark: Record | None) -> Page:
    return read(render(verification, benchmark))


def test_a_pass_and_a_failure_are_told_in_words() -> None:
    assert "Passed. All 4 artifacts agree with rest_small.safetensors" in _text(samples.verification(), None)
    told = _text(*samples.troubled())
    assert "Failed. 1 of 4 artifacts not within the tolerance of rest_small.safetensors." in told
    assert "agreement 0.914 is under 0.95" in told


def test_only_measured_is_no_pass() -> None:
    told = _text(None, samples.benchmark())
    assert "Speed only: 5 contenders, none of them verified" in told
    assert "Passed" not in told


def test_a_verification_that_failed_for_its_images_says_so() -> None:
    checked = samples.verification() | {"passed": False}
    assert "though no artifact did: 1 image could not be read." in _text(checked, None)


def test_cautions() -> None:
    told = _text(*samples.troubled())
    assert "Interrupted. The benchmark was stopped" in told
    assert "Noisy. 1 of 6 cases carry warnings (384×384, batch 8)" in told
    assert "Not measured. rest_lite torch, rest_large.engine" in told
    assert "Slower. 1 regression against old.json." in told
    timed = samples.benchmark()
    timed["cases"] = timed["cases"][:3]
    assert not any(word in _text(None, timed) for word in ("Interrupted", "Noisy", "Not measured", "Slower"))


def test_what_was_assumed_is_told_before_the_figures() -> None:
    checked = samples.verification()
    for artifact in checked["artifacts"]:
        artifact["assumed"] = {}
    assert "Assumed." not in _text(checked, None)
    for artifact in checked["artifacts"][:2]:
        artifact["assumed"] = {"image size": "224x224", "labels": "ImageNet's"}
    first, second = (artifact["name"] for artifact in checked["artifacts"][:2])
    assert f"Assumed. {first}, {second}: image size 224x224; labels ImageNet's." in _text(checked, None)


def test_sections_without_data_are_left_out() -> None:
    names = [own["id"] for own in _page(*samples.small()).all("section")]
    assert names == ["compared", "tradeoff", "latency", "error", "making"]
    assert [own["id"] for own in _page(None, samples.benchmark()).all("section")] == ["compared", "latency", "making"]
    assert [own["id"] for own in _page(*samples.troubled()).all("section")] == [
        *("compared", "tradeoff", "latency", "error", "images", "blocks", "flips", "regression", "making")
    ]


def test_the_frontier_in_words() -> None:
    told = _text(samples.verification(), samples.benchmark())
    assert "1 rest_small.onnx 99.17% 26.3 yes passed" in told
    assert "2 rest_small_fp16.onnx 98.77% 36.3 no passed" in told
    assert "4 rest_small.engine 98.77% 1.67 yes passed" in told
    assert "not verified: 5 rest_small torch" in told


def test_a_file_of_the_same_name_is_not_the_one_that_was_verified() -> None:
    told = _text(*samples.troubled())
    assert "not verified: other SHA-256 than that name's: 8 rest_small_int8.onnx" in told


def test_nothing_both_measured_and_verified() -> None:
    told = _text(samples.verification(network="rest_huge"), samples.benchmark())
    assert "No contender of the benchmark is both measured and verified" in told


def test_errors_and_missing_percentiles_are_told() -> None:
    told = _text(*samples.troubled())
    assert "out of memory: 3.1 GiB asked, 1.2 GiB free" in told
    assert "could not be opened: no CUDA device" in told
    assert "its process was ended by signal 9" in told
    assert "— at p90 or p99: too few calls to tell that percentile." in told


def test_gpu_figures_only_where_there_are_any() -> None:
    timed = samples.benchmark()
    assert "Where the time on the GPU goes: rest_small" in _text(None, timed)
    for case in timed["cases"]:
        for result in case["results"]:
            result["gpu"] = None
    assert "Where the time on the GPU goes" not in _text(None, timed)


def test_blocks_name_the_first_past_its_limit() -> None:
    checked = samples.verification()
    first = checked["artifacts"][2]["blocks"]["first_past_tolerance"]
    assert first is not None
    assert f"the first block past its limit is {first}." in _text(checked, None)
    checked["artifacts"][2]["blocks"]["first_past_tolerance"] = None
    assert "every block is within its limit." in _text(checked, None)


def test_flips_say_how_many_and_who_was_right() -> None:
    told = _text(samples.verification(), None)
    assert "rest_small_int8.onnx: 24 of 31 flipped images shown" in told
    assert "label zero (0), reference right" in told
    assert "label four (4), artifact right" in told
    assert "label zero (0), both wrong" in told


def test_thumbnails_and_what_is_none() -> None:
    checked = samples.verification()
    worst = checked["artifacts"][2]["images"][0]["worst_flips"]
    worst[0]["thumbnail"] = "data:image/svg+xml;base64,PHN2Zy8+"
    worst[1]["thumbnail"] = None
    before, page = _page(samples.verification(), None), _page(checked, None)
    assert len(page.all("img")) == len(before.all("img")) - 2
    assert page.text.count("no picture") == 2
    assert {own["alt"].split(" ")[0] for own in page.all("img")} == {"thumbnail"}


def test_regressions() -> None:
    told = _text(*samples.troubled())
    assert "1 × no difference beyond noise, 1 × regression, 1 × improvement" in told
    assert "rest_large.onnx: only in the new record" in told


def test_commands_and_machine() -> None:
    told = _text(samples.verification(), samples.benchmark())
    assert "rest-verify rest_small.onnx --reference rest_small.safetensors" in told
    assert "240 GFLOP/s by onnxruntime on 2 threads" in told
    assert "NVIDIA H100 80GB HBM3" in told
    assert "verified 2026-11-24 07:10 UTC; measured 2026-11-24 07:10 UTC" in told


def test_ratios_name_what_they_are_formed_to() -> None:
    timed = samples.benchmark()
    for case in timed["cases"]:
        case["results"][0]["ratio"], case["results"][1]["ratio"] = case["results"][1]["ratio"], None
        for result in case["results"]:
            if result["ratio"] is not None:
                result["ratio"]["to"] = "rest_small_fp16.onnx"
    told = _text(None, timed)
    assert "Time over that of 2 fp16.onnx; left of 1 is faster" in told
    assert "Ratio: time over that of rest_small_fp16.onnx; interval of 99% confidence." in told
