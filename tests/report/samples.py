"""Records as rest-verify and rest-bench write them: a small one of each, and large ones with all that may happen."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import random
from typing import Any

import numpy as np
from PIL import Image

Record = dict[str, Any]
SIZES = ((224, 224), (384, 384), (480, 640))
_PIXELS = 224 * 224
NETWORKS = {"rest_lite": 9.4, "rest_small": 27.1, "rest_base": 58.0, "rest_large": 101.0}  # milliseconds at 224x224
#: Suffix, kind, format, precision, device -> time over the first one's.
ENTRANTS = {
    ".onnx": ("artifact", "onnx", "fp32", "cpu", 1.0),
    "_fp16.onnx": ("artifact", "onnx", "fp16", "cpu", 1.34),
    "_int8.onnx": ("artifact", "onnx", "int8", "cpu", 0.71),
    ".engine": ("artifact", "trt", "fp16", "cuda:0", 0.06),
    " torch": ("baseline", "pytorch", "fp32", "cpu", 1.92),
}
_ERRORS = {"fp32": 1.4e-6, "fp16": 1.2e-3, "int8": 0.11}
_RUNTIMES = {"onnx": "ONNX Runtime 1.32.0", "trt": "TensorRT 10.13", "pytorch": "PyTorch, as its authors wrote it"}
_REASON = "half has 13 bits fewer than float32, so a network that loses e there loses some 2**13 e in half"


def sha(name: str) -> str:
    """A SHA-256 for a name."""
    return hashlib.sha256(name.encode()).hexdigest()


@functools.cache
def picture(seed: int, side: int = 8, kind: str = "PNG") -> str:
    """A thumbnail as a data URI."""
    content = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, side * side)
    pixels = np.minimum(255, noise * (1 + np.arange(side * side) % 3) // 2).astype(np.uint8).tobytes()
    Image.frombytes("L", (side, side), pixels).save(content, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def environment(command: str, *, gpu: bool = False) -> Record:
    """A machine."""
    device = {
        "name": "NVIDIA H100 80GB HBM3", "driver": "580.65.06", "memory_mib": 81559, "compute_capability": "9.0",
        "sm_clock_mhz": 1980, "max_sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 40,
        "power_w": 80.5, "throttle_reasons": "0x0",
    }  # fmt: skip
    return {
        "created": "2026-11-24T07:10:03+00:00", "command": command, "os": "Linux-6.1.0-x86_64-with-glibc2.36",
        "python": "3.11.7", "cpu": "AMD EPYC (avx2, avx512f, avx512_vnni)", "logical_cpus": 2, "physical_cores": 2,
        "affinity": [0, 1], "memory_mib": 24000, "clocks_mhz": [2600.0, 2595.5], "governor": None,
        "gpus": [device] if gpu else [],
        "packages": {"rest-deploy": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.32.0", "torch": "2.13.0+cpu"},
        "variables": {"OMP_NUM_THREADS": "2"},
    }  # fmt: skip


def _synthetic(batch: int, height: int, width: int, precision: str, draw: random.Random) -> Record:
    error = _ERRORS[precision] * draw.uniform(0.6, 1.9)
    own = 1.1e-6 * draw.uniform(0.5, 1.6)
    limit = {"fp32": 5e-5, "fp16": own * 12288, "int8": 0.6}[precision]
    return {
        "batch": batch, "height": height, "width": width, "max_error": error, "mean_error": error / 4.2,
        "reference_error": own, "limit": limit, "logit_scale": 1.3, "logit_std": 0.4, "cosine": 1 - error**2,
        "kl_divergence": error**2 / 3, "top1_agreement": 1.0, "top5_agreement": 1.0, "passed": error <= limit,
    }  # fmt: skip


CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RIGHT = 36  # images of a class, all of them answered rightly but for those of ``confused``


def _picture(number: int, *, labelled: bool, picture_of: str | None, wrong: bool = False) -> Record:
    reference, artifact = number % 10, (number * 3 + 1) % 10
    label = (
        [reference, (number + 5) % 10][number % 2] if wrong else [reference, artifact, (number + 5) % 10][number % 3]
    )
    return {
        "image": f"{CLASSES[reference]}/digit_{number:04d}.png", "label": label if labelled else None,
        "label_name": CLASSES[label] if labelled else None,
        "reference": reference, "reference_name": CLASSES[reference], "artifact": artifact,
        "artifact_name": CLASSES[artifact], "margin": 1.9 / (number + 1), "error": 0.21 + number / 100,
        "thumbnail": picture_of,
    }  # fmt: skip


def _classes(wrong: int, *, labelled: bool) -> Record:
    """Of class 3, so many images are answered as 8, and twice as many of 4 as 9."""
    if not labelled:
        return {"by_class": [], "confused": []}
    missed = {3: wrong, 4: 2 * wrong}
    return {
        "by_class": [
            {"label": n, "label_name": name, "images": RIGHT, "right": RIGHT - missed.get(n, 0)}
            for n, name in enumerate(CLASSES)
        ],
        "confused": [
            {"label": label, "artifact": label + 5, "artifact_name": CLASSES[label + 5], "images": missed[label]}
            for label in (4, 3)
        ] if wrong else [],
    }  # fmt: skip


def _images(size: str | None, precision: str, flips: int, *, labelled: bool) -> Record:
    error = _ERRORS[precision] * 1.7
    worst, wrong = (
        [
            _picture(n, labelled=labelled, picture_of=picture(n, 8 if n % 2 else 128, "JPEG"), wrong=own)
            for n in range(12 * own, 12 * own + min(flips, 24))
        ]
        for own in (False, True)
    )
    return {
        "size": size, "images": 360, "max_error": error, "mean_error": error / 5, "rms_error": error / 4,
        "reference_error": 1.3e-6, "logit_std": 3.1, "cosine": 1 - error**2 / 4, "kl_divergence": error**2 / 5,
        "limit": 0.6, "max_kl_divergence": error**2,
        "top1_agreement": 1 - flips / 360, "top5_agreement": 1 - flips / 900,
        "top1_accuracy": 0.9917 - flips / 500 if labelled else None, "top5_accuracy": 1.0 if labelled else None,
        "flips": flips, "worst_flips": worst, "wrong": flips + 3 if labelled else None,
        "worst_wrong": wrong if labelled else [], **_classes(flips // 4, labelled=labelled),
        "worst_errors": [_picture(n, labelled=labelled, picture_of=None) for n in range(3)],
    }  # fmt: skip


def _blocks(precision: str) -> Record:
    names = [
        "stem",
        *(f"stage{s}.{b}" for s, depth in enumerate((2, 2, 6, 2), 1) for b in range(depth)),
        "norm",
        "head",
    ]
    rows = []
    for number, name in enumerate(names):
        error = _ERRORS[precision] * 0.05 * 1.45**number
        row = {"block": name, "max_error": error, "rms_error": error / 6, "reference_error": 4e-7 * 1.2**number}
        judged, limit = ("rms_error", 0.06) if precision == "int8" and name != "head" else ("max_error", 0.35)
        verdict = {"judged_by": judged, "limit": limit, "passed": row[judged] <= limit}
        rows.append({**row, "std": 1.0 + number / 9, **verdict})
    first = next((row["block"] for row in rows if not row["passed"]), None)
    return {"case": "1x224x224", "first_over_limit": first, "rows": rows}


def artifact(network: str, suffix: str, *, labelled: bool = True, images: bool = True) -> Record:
    """What is found of an artifact."""
    _, form, precision, device, _ = ENTRANTS[suffix]
    name, draw = network + suffix, random.Random(network + suffix)
    cases = [(1, 1, 1), (1, 97, 131), *((b, h, w) for h, w in SIZES for b in (1, 3))]
    synthetic = [_synthetic(*case, precision, draw) for case in cases]
    flips = {"fp32": 0, "fp16": 2, "int8": 31}[precision]
    found = [_images(size, precision, flips, labelled=labelled) for size in (None, "384x384")] if images else []
    failures = [f"{c['batch']}x{c['height']}x{c['width']}: largest error is over" for c in synthetic if not c["passed"]]
    return {
        "name": name, "path": f"/models/{name}", "sha256": sha(name), "bytes": 54_123_456, "format": form,
        "precision": precision, "model": network, "device": device, "computed": "every value as the runtime gave it",
        "limits": {
            "synthetic": {"baseline_factor": 12288.0, "floor": 0.0, "max_error": 0.02, "reason": _REASON},
            "images": {"min_top1_agreement": 0.9, "max_error": 0.5, "max_accuracy_loss": None} if images else None,
        },
        "synthetic": synthetic,
        "images": found, "blocks": _blocks(precision) if precision == "int8" else None,
        "failures": failures, "passed": not failures, "assumed": {"labels": "ImageNet's"} if images else {},
    }  # fmt: skip


def verification(*, network: str = "rest_small", labelled: bool = True, images: bool = True) -> Record:
    """Four artifacts of a network on noise and on images."""
    artifacts = [artifact(network, suffix, labelled=labelled, images=images) for suffix in list(ENTRANTS)[:4]]
    reference = f"{network}.safetensors"
    accuracy = [
        {
            **{"size": size, "top1_accuracy": 0.9917 if labelled else None, "top5_accuracy": 1.0 if labelled else None},
            **_classes(1, labelled=labelled),
        }
        for size in (None, "384x384")
    ]
    data = {
        "folder": "/data/val", "images": 360, "labelled": labelled,
        "skipped": [{"image": "bad.png", "error": "not an image"}],
        "transform": "crop 224x224 mean (0.485, 0.456, 0.406) std (0.229, 0.224, 0.225)", "reference": accuracy,
    }  # fmt: skip
    return {
        "kind": "rest-verify", "schema": 2,
        "environment": environment(f"rest-verify {network}.onnx --reference {reference} --images /data/val"),
        "reference": {
            "name": reference, "path": f"/models/{reference}", "sha256": sha(reference), "format": "pytorch",
            "model": network, "precision": "fp32", "computed": "PyTorch float64",
        },
        "seed": 0, "data": data if images else None, "artifacts": artifacts,
        "passed": all(one["passed"] for one in artifacts),
    }  # fmt: skip


def contender(network: str, suffix: str) -> Record:
    """A contender."""
    kind, form, precision, device, factor = ENTRANTS[suffix]
    name, own = network + suffix, kind == "artifact"
    peaks = {f"1x{h}x{w}": 210.5 + h * w / 900 for h, w in SIZES}
    return {
        "name": name, "kind": kind, "network": network, "path": f"/models/{name}" if own else None,
        "sha256": sha(name) if own else None, "bytes": 54_123_456 if own else None, "format": form,
        "precision": precision, "device": device, "threads": 2,
        "description": _RUNTIMES[form], "error": None,
        "cold": {"load_ms": 320.0 * factor + 90, "first_answer_ms": 61.0 * factor, "peak_mib": peaks, "error": None},
    }  # fmt: skip


def _result(network: str, suffix: str, pixels: float, batch: int) -> Record:
    *_, device, factor = ENTRANTS[suffix]
    name, draw = network + suffix, random.Random(f"{network}{suffix}{pixels}{batch}")
    p50 = NETWORKS[network] * factor * pixels**1.08 * batch**0.93 * draw.uniform(0.97, 1.03)
    few, gflop = p50 > 700, 0.079 * NETWORKS[network] ** 1.18 * pixels * batch
    ratio = None
    if suffix != ".onnx":
        low, high = 0.975 * factor, 1.03 * factor
        verdict = "faster" if high < 1 else "slower"
        ratio = {"to": f"{network}.onnx", "median": factor, "low": low, "high": high, "confidence": 0.99, "rounds": 20}
        ratio["verdict"] = verdict
    parts = {"host_to_host_ms": p50, "compute_ms": 0.8 * p50, "copy_in_ms": 0.12 * p50, "copy_out_ms": 0.02 * p50}
    return {
        "contender": name, "error": None, "warmup_ms": [2 * p50, p50], "rounds_ms": [[p50, p50 * 1.01]] * 3,
        "calls": 24 if few else 240, "p50_ms": p50, "p90_ms": None if few else p50 * draw.uniform(1.03, 1.3),
        "p99_ms": p50 * 1.5 if p50 < 60 else None, "mean_ms": 1.02 * p50, "images_per_second": 1e3 * batch / p50,
        "gflop": gflop, "gflops": 1e3 * gflop / p50,
        "share_of_machine": gflop / p50 / 0.2402 if device == "cpu" else None,
        "ratio": ratio, "gpu": {**parts, "enqueue_ms": 0.4, "calls": 50} if device != "cpu" else None,
    }  # fmt: skip


def _case(batch: int, height: int, width: int, names: tuple[str, ...]) -> Record:
    pixels = height * width / _PIXELS
    noisy = ["noisy: other processes used 12% of the processors' time"] if (batch, height) == (8, 384) else []
    return {
        "batch": batch, "height": height, "width": width, "rounds": 20,
        "conditions": {"probe_spread": 0.03, "probe_drift": 1.01, "stolen": 0.001, "others": 0.02, "flags": noisy},
        "results": [_result(network, suffix, pixels, batch) for network in names for suffix in ENTRANTS],
    }  # fmt: skip


def benchmark(*, names: tuple[str, ...] = ("rest_small",)) -> Record:
    """Five contenders of each network at three sizes and two batches, all well."""
    command = "rest-bench rest_small.onnx rest_small_fp16.onnx --sizes 224 384 480x640 --batches 1 8"
    settings = {"threads": 2, "device": None, "min_rounds": 15, "min_seconds": 1.0, "max_seconds": None}
    return {
        "kind": "rest-bench", "schema": 1, "environment": environment(command, gpu=True), "interrupted": False,
        "settings": {**settings, "confidence": 0.99, "seed": 0},
        "machine": {"gflops": 240.2, "by": "onnxruntime", "threads": 2},
        "contenders": [contender(network, suffix) for network in names for suffix in ENTRANTS],
        "cases": [_case(batch, *size, names) for size in SIZES for batch in (1, 8)], "comparison": None,
    }  # fmt: skip


def comparison() -> Record:
    """Against an earlier benchmark."""
    verdicts = (("rest_small.onnx", 1.002), ("rest_small_int8.onnx", 1.21), ("rest_small.engine", 0.83))
    rows = []
    for name, ratio in verdicts:
        word = "no difference beyond noise" if abs(ratio - 1) < 0.05 else "regression" if ratio > 1 else "improvement"
        row = {"contender": name, "case": "1x224x224", "old_ms": 27.0, "new_ms": 27.0 * ratio, "ratio": ratio}
        rows.append({**row, "low": ratio * 0.97, "high": ratio * 1.03, "machine_ratio": 1.01, "verdict": word})
    return {"with": "old.json", "rows": rows, "notes": ["rest_large.onnx: only in the new record"]}


def troubled() -> tuple[Record, Record]:
    """Four networks with all that may go wrong: errors, nulls, noise, an interruption, a failed artifact."""
    checked, timed = verification(), benchmark(names=tuple(NETWORKS))
    bad = checked["artifacts"][2]
    bad["failures"] = ["1x384x384: largest error 0.71 is over 0.6", "agreement 0.914 is under 0.95"]
    bad["passed"] = checked["passed"] = False
    bad["synthetic"][4] |= {"max_error": 0.71, "passed": False}
    nothing = dict.fromkeys(("max_error", "mean_error", "cosine", "kl_divergence", "top1_agreement", "top5_agreement"))
    bad["synthetic"][0] |= {**nothing, "reference_error": None, "passed": False}
    timed["interrupted"] = True
    timed["comparison"] = comparison()
    blank = {key: None for key in timed["cases"][0]["results"][0] if key not in ("contender", "warmup_ms", "rounds_ms")}
    timed["cases"][5]["results"][4] |= {**blank, "error": "out of memory: 3.1 GiB asked, 1.2 GiB free"}
    timed["cases"][4]["results"][14] |= blank
    timed["cases"][0]["results"][9]["ratio"] |= {"low": 0.97, "high": 1.04, "verdict": "no difference beyond noise"}
    timed["contenders"][18] |= {"error": "could not be opened: no CUDA device", "cold": None}
    for case in timed["cases"]:
        case["results"][18] |= {**blank, "error": "could not be opened: no CUDA device"}
    cold = {"load_ms": None, "first_answer_ms": None, "peak_mib": {}, "error": "signal 9 ended its process"}
    timed["contenders"][17]["cold"] = cold
    timed["contenders"][7]["sha256"] = sha("another file of that name")
    return checked, timed


def small() -> tuple[Record, Record]:
    """One artifact at one size, and all else null."""
    checked, timed = verification(images=False), benchmark()
    checked["artifacts"] = checked["artifacts"][:1]
    checked["artifacts"][0] |= {"synthetic": checked["artifacts"][0]["synthetic"][2:3], "limits": None}
    timed["contenders"] = [timed["contenders"][0] | {"cold": None}]
    timed["cases"] = [timed["cases"][0] | {"conditions": None, "results": timed["cases"][0]["results"][:1]}]
    return checked, timed | {"machine": None, "settings": None}


def one_of_each() -> tuple[Record, Record]:
    """Records in which everything is there once, or twice."""
    checked, timed = verification(), benchmark()
    only = checked["artifacts"][2]
    only["images"] = only["images"][:1]
    only["images"][0] |= {name: only["images"][0][name][:1] for name in ("worst_flips", "worst_wrong", "worst_errors")}
    only |= {"synthetic": only["synthetic"][2:4], "blocks": only["blocks"] | {"rows": only["blocks"]["rows"][-2:]}}
    timed["contenders"] = [timed["contenders"][number] for number in (0, 3)]
    timed["cases"] = timed["cases"][2:4]
    for case in timed["cases"]:
        case["results"] = [case["results"][number] for number in (0, 3)]
    return checked | {"artifacts": [only]}, timed | {"comparison": comparison()}
