"""rest-doctor: what it prints, that text and JSON tell the same, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.cli import doctor
from tests.cli.test_commands import Outcome
from tests.conftest import ROOT
from tests.doctor.machines import (
    CPU_EP,
    CUDA_EP,
    RTX,
    RTX_4090,
    FakeOnnxRuntime,
    Machine,
    broken_module,
    forget_sums,
    torch_with_gpu,
)
from tests.standins.cuda import FakeCuda, FakeDevice

MonkeyPatch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
H200 = FakeDevice("NVIDIA H200", (9, 0), 139 << 30)
CELLS = {"yes": "yes", "no": "no", "never": "-", "unknown": "?"}
TABLE = """\
  artifact                                     export  run on cpu  run on gpu  missing step
  onnx       .onnx in fp32                     yes     yes         no          1
  onnx-fp16  .onnx in fp16                     yes     yes         no          1
  onnx-int8  .onnx in int8 for CPUs            yes     yes         -
  web        web page by onnxruntime-web       yes     -           -
  trt        .engine by TensorRT               no      -           no          1
  trt-rtx    .engine by TensorRT-RTX           yes     -           no          1
  triton     Triton repository                 yes     -           -
  openvino   .onnx by OpenVINO                 -       no          -           2
  webgpu     .onnx by ONNX Runtime WebGPU      -       -           no          3
  ort-trt    .onnx by ONNX Runtime TensorRT    -       -           no          1
  ort-rtx    .onnx by ONNX Runtime TRT-RTX     -       -           no          1
  pytorch    .pth .pt .safetensors by PyTorch  -       yes         no          1
   1 there is no NVIDIA driver here; install one, or use device cpu with an .onnx file
   2 openvino is not installed; pip install "rest-deploy[openvino]"
   3 onnxruntime-ep-webgpu is not installed; pip install "rest-deploy[webgpu]"
"""


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    yield from forget_sums()


def _machine(monkeypatch: MonkeyPatch, **options: Any) -> Machine:
    return Machine(monkeypatch, RTX, cuda=FakeCuda.no_driver(), onnxruntime=FakeOnnxRuntime(), **options)


def test_the_report(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    _machine(monkeypatch)
    done = Outcome(doctor, [], capsys)
    assert (done.code, done.err) == (0, "")
    assert TABLE in done.out
    assert "\n   * trt: --format trt builds with TensorRT-RTX 1.7.1.116 here\n" in done.out
    groups = [line for line in done.out.splitlines() if line and not line.startswith(" ")]
    assert groups == ["System", "Packages", "Devices", "Artifacts"]
    assert f"  Python       3.11.7 ({sys.executable})" in done.out
    cpu = "Some CPU (avx2), 2 cores, 4 processors usable, limited to the time of 1.5"
    assert f"  CPU          {cpu}\n" in done.out
    assert "  8-bit sums   exact\n  OMP_NUM_THREADS 2\n" in done.out
    assert "  tensorrt                                      not installed\n" in done.out
    assert "  torch                          2.13.0         works\n" in done.out
    assert "  CPUExecutionProvider   runs\n  CUDAExecutionProvider  does not run without a GPU\n" in done.out
    assert done.out.count("there is no NVIDIA driver here") == 1
    assert "rest-deploy[gpu]" not in done.out


def test_gpus(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    torch_with_gpu(monkeypatch)
    machine = Machine(monkeypatch, RTX, cuda=FakeCuda((RTX_4090, H200)), onnxruntime=FakeOnnxRuntime((CUDA_EP, CPU_EP)))
    machine.environment["gpus"] = [{"name": "x", "driver": "580.82.07", "compute_capability": "8.9"}]
    done = Outcome(doctor, ["--require", "onnx:cuda", "--require", "trt-rtx"], capsys)
    assert (done.code, done.err) == (0, "")
    assert "  NVIDIA driver          580.82.07, CUDA 13.0\n" in done.out
    assert "  cuda:0                 NVIDIA GeForce RTX 4090 (sm89), 24576 MiB\n" in done.out
    assert "  cuda:1                 NVIDIA H200 (sm90), 142336 MiB\n" in done.out
    assert "  onnx       .onnx in fp32                     yes     yes         yes\n" in done.out


def test_gpus_that_only_nvml_finds(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    machine = Machine(monkeypatch, cuda=FakeCuda.old_driver(), onnxruntime=FakeOnnxRuntime())
    machine.environment["gpus"] = [{"name": "Tesla T4", "driver": "535.1", "compute_capability": "7.5"}]
    out = Outcome(doctor, [], capsys).out
    assert "  NVIDIA driver          535.1, CUDA 12.2\n" in out
    assert "  by NVML                Tesla T4 (7.5)\n" in out
    assert "  GPU                    the NVIDIA driver supports CUDA 12.2, cuda-bindings needs CUDA" in out


def test_what_nvml_failed_at_stands_beside_the_gpus(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    machine = Machine(monkeypatch, onnxruntime=FakeOnnxRuntime())
    machine.environment["gpus"] = [{"name": "Tesla T4", "driver": "535.1", "compute_capability": "7.5"}]
    machine.environment["gpus_note"] = "NVML: GPU 0, power_w: Insufficient Permissions"
    out = Outcome(doctor, [], capsys).out
    assert "  not known              NVML: GPU 0, power_w: Insufficient Permissions\n" in out


@pytest.mark.parametrize(("cuda", "words"), [(FakeCuda.no_driver(), "not found"), (FakeCuda(), "not known")])
def test_a_driver_is_not_found_only_where_that_is_certain(
    monkeypatch: MonkeyPatch, capsys: Capture, cuda: FakeCuda, words: str
) -> None:
    machine = Machine(monkeypatch, cuda=cuda, onnxruntime=FakeOnnxRuntime())
    if words == "not known":
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    machine.environment["gpus_note"] = "nvidia-ml-py is needed"
    assert f"  NVIDIA driver          {words} (nvidia-ml-py is needed)\n" in Outcome(doctor, [], capsys).out


def test_json_tells_the_same_as_the_text(monkeypatch: MonkeyPatch, capsys: Capture, tmp_path: Path) -> None:
    machine = Machine(
        monkeypatch, RTX, cuda=FakeCuda((H200,)), onnxruntime=FakeOnnxRuntime(saturates=True), onnxruntime_gpu="1.32.0"
    )
    broken_module(monkeypatch, tmp_path, "torch", "raise OSError('libtorch.so: no such file')")
    text = " ".join(Outcome(doctor, [], capsys).out.split())
    told = json.loads(Outcome(doctor, ["--json"], capsys).out)
    assert (told["kind"], told["schema"], told["required"]) == ("rest-doctor", 1, [])
    assert told["environment"] == machine.environment
    facts = [told["executable"], told["environment"]["os"], told["environment"]["cpu"], "8-bit sums saturate"]
    assert told["integers"] == {"saturate": True, "problem": ""}
    for package in told["packages"]:
        name = package["module"] if package["module"].startswith("tensorrt") else package["name"]
        note = f": {package['note']}" if package["note"] else ""
        facts.append(" ".join(f"{name} {package['version'] or ''} {package['state']}{note}".split()))
    for provider in told["providers"]:
        facts.append(f"{provider['name']} {'does not run: ' if provider['problem'] else 'runs'}{provider['problem']}")
    for gpu in told["gpus"]["found"]:
        facts.append(f"cuda:{gpu['index']} {gpu['name']} ({gpu['compute_capability']}), {gpu['memory_mib']} MiB")
    for artifact in told["artifacts"]:
        answers = [artifact[name] for name in ("export", "cpu", "cuda")]
        facts.append(" ".join([artifact["key"], artifact["title"], *(CELLS[a["possible"]] for a in answers)]))
        for answer in answers:
            facts += answer["steps"] if answer["possible"] != "never" else []
            facts.append(answer["note"])
    assert len(facts) > 40
    for fact in facts:
        assert fact in text


def test_lines_are_legible_at_100_columns_and_commands_are_not_broken(
    monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    _machine(monkeypatch, onnxruntime_gpu="1.32.0", torch="1.0", cuda_bindings="9.0")
    lines = Outcome(doctor, [], capsys).out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.endswith('pip install "torch>=2.9"') for line in lines)
    assert not [line for line in lines if line.endswith(("pip", "install", "--force-reinstall"))]


def test_terminals_are_not_sent_control_characters(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    machine = _machine(monkeypatch, torch="2.13\x1b[31m")
    machine.environment |= {"cpu": "\x1b]0;title\x07CPU", "variables": {"ORT_\x1b": "\x1b[2J\u202e"}}
    machine.environment["gpus"] = [{"name": "\x1bGPU", "driver": "\x1b1", "compute_capability": None}]
    out = Outcome(doctor, [], capsys).out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "\\x1b]0;title\\x07CPU" in out


def test_nothing_is_told_of_artifacts(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("rest_deploy.doctor.artifacts.check_artifacts", None)
    _machine(monkeypatch)
    done = Outcome(doctor, ["--require", "onnx"], capsys)
    assert done.code == 1
    assert "Artifacts\n" in done.out
    assert "the artifacts cannot be listed: TypeError: " in done.out
    assert done.err.startswith("error: onnx: artifacts cannot be listed here: ")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_is_required_and_missing(monkeypatch: MonkeyPatch, capsys: Capture, flags: list[str]) -> None:
    _machine(monkeypatch)
    required = ["--require", "onnx", "--require", "onnx:cuda", "--require", "trt-rtx", "--require", "trt"]
    done = Outcome(doctor, [*required, *flags], capsys)
    assert done.code == 1
    assert [line.partition(" it cannot")[0] for line in done.err.splitlines()] == ["error: onnx:cuda:", "error: trt:"]
    if flags:
        told = json.loads(done.out)["required"]
        assert [row["artifact"] for row in told if not row["unmet"]] == ["onnx", "trt-rtx"]
        assert f"error: {told[1]['unmet']}" == done.err.splitlines()[0]
    else:
        assert TABLE in done.out


@pytest.mark.parametrize("text", ["coreml", "onnx:tpu", ":"])
def test_wrong_usage(capsys: Capture, text: str) -> None:
    done = Outcome(doctor, ["--require", text], capsys)
    assert done.code == 2
    assert "usage: rest-doctor" in done.err
    assert "accepted" in done.err


def test_progress_is_told_only_where_a_person_watches(monkeypatch: MonkeyPatch, capsys: Capture) -> None:
    _machine(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = Outcome(doctor, ["--json"], capsys)
    assert "left" in done.err
    assert "%" in done.err
    json.loads(done.out)


HIDDEN = (
    *("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "onnxruntime", "openvino", "tensorrt_rtx_bindings"),
    *("psutil", "pynvml", "nvidia-ml-py"),
)
NOT_INSTALLED = f"""
import importlib.metadata, sys
hidden = {HIDDEN!r}
sys.modules.update(dict.fromkeys(hidden))
real = importlib.metadata.version
def version(name):
    if name.startswith(hidden) or name.startswith("tensorrt"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
from rest_deploy.cli.doctor import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_where_nothing_but_what_is_always_needed_is_installed(flags: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED, "--require", "onnx", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f'error: onnx: it cannot be run on cpu here: onnxruntime is not installed; pip install -e "{ROOT}[cpu]"\n'
    )
    if flags:
        rows = {row["key"]: row for row in json.loads(done.stdout)["artifacts"]}
        (step,) = rows["onnx"]["export"]["steps"]
        assert step.endswith(f'are not installed; pip install -e "{ROOT}[export,cpu]"')
        assert rows["onnx"]["cpu"]["possible"] == "no"
        states = {row["name"]: row["state"] for row in json.loads(done.stdout)["packages"]}
        assert states["psutil"] == states["nvidia-ml-py"] == "not installed"
        assert f'pip install -e "{ROOT}[bench]"' in json.loads(done.stdout)["environment"]["gpus_note"]
    else:
        assert f'pip install -e "{ROOT}[export,cpu]"' in " ".join(done.stdout.split())


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, rest_deploy.cli.doctor; rest_deploy.cli.doctor._parser(); print([m for m in sys.modules if "
    code += "m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'PIL', 'importlib.metadata', 'cuda', 'tensorrt')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
