"""A process's share of the CPU: no session and no run of PyTorch has more threads than its cgroup's quota."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rest_deploy import machine
from rest_deploy.benchmarking import conditions
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.errors import ConfigError
from rest_deploy.export import as_written
from rest_deploy.export.blockwise import whole
from rest_deploy.export.checks import answers, simplify
from rest_deploy.export.cpu_session import CpuSession
from rest_deploy.export.precision.calibration import calibrate
from rest_deploy.machine import usable_cores
from rest_deploy.models.deploy import to_deploy
from rest_deploy.models.family import FAMILIES
from rest_deploy.models.reference import reference_runs, torch_threads
from rest_deploy.models.rest import ResT
from rest_deploy.recipes import recipe_of
from rest_deploy.runtimes import ort
from rest_deploy.runtimes.ort import open_session
from rest_deploy.runtimes.registry import open_runtime
from rest_deploy.specs import CalibrationMethod, Device, Precision
from rest_deploy.verification.opened import candidate_of, open_reference, open_subject
from tests.conftest import ROOT, slow

PACKAGE = ROOT / "rest_deploy"
IMAGE = np.zeros((1, 3, 24, 20), np.float32)
#: Cores of the machine that these tests pretend to be on, and threads that PyTorch has there at first.
pytestmark = pytest.mark.anew

CORES, OWN = 4, 3


@pytest.fixture(params=["v2", *slow(["v1"])])
def one_core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Four cores, of which the cgroup leaves 1.9, in files as the kernel writes them."""
    files = {
        "v1": {"cgroup": "3:cpu,cpuacct:/box\n", "fs/cpu,cpuacct/box/cpu.cfs_quota_us": "190000\n",
               "fs/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"},
        "v2": {"cgroup": "0::/box\n", "fs/box/cpu.max": "190000 100000\n"},
    }  # fmt: skip
    for name, text in files[request.param].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_CGROUP_MOUNT", tmp_path / "fs")
    monkeypatch.setattr(machine, "physical_cores", lambda: CORES)
    before = torch.get_num_threads()
    torch.set_num_threads(OWN)
    yield
    assert torch.get_num_threads() == OWN  # whatever ran has put it back
    torch.set_num_threads(before)


Seen = dict[str, set[int]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Threads of every session of ONNX Runtime that the package opens, and of PyTorch in every module that runs."""
    found: Seen = {"onnxruntime": set(), "torch": set()}
    real = onnxruntime.InferenceSession

    def opened(model: Any, options: Any = None, **more: Any) -> Any:
        if "rest_deploy" in sys._getframe(1).f_code.co_filename:
            found["onnxruntime"].add(options.intra_op_num_threads)
        return real(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda *_: found["torch"].add(torch.get_num_threads())  # type: ignore[func-returns-value]
    )
    yield found
    hook.remove()


def _run(path: Path) -> None:
    with open_runtime(path) as runtime:
        runtime.run(IMAGE)


def _baseline(name: str, file: Path) -> None:
    """As ``benchmark`` opens it where it is told no number of threads."""
    contender = Contender("x", "x", "rest", {}, str(file), name, None, usable_cores(), "onnx", "fp32", 3)
    with contender.open() as session:
        session.run(IMAGE)


def _plain(model: ResT, folder: Path) -> None:
    as_written.export_as_written(model, folder / "plain.onnx")
    _baseline("as-written", folder / "plain.onnx")


def _blocks(path: Path) -> None:
    with open_reference(path, None) as reference, open_subject("x", path, None, None) as subject:
        for run in (*reference.blocks(Precision.FP16), subject.blocks()):
            assert run is None or run(IMAGE)


def _references(model: ResT) -> None:
    for run in reference_runs(model, Precision.FP16):
        run(IMAGE)


def _simplify(given: Any) -> None:
    simplify(given.graph, to_deploy(given.model).structure(), FAMILIES["rest"].operators, answers(given.graph))


def _machine() -> None:
    conditions.measure_rate(usable_cores())


#: What opens a session of ONNX Runtime -> how.
SESSIONS: dict[str, Callable[[Any], object]] = {
    "a runtime": lambda given: _run(given.onnx),
    "any file": lambda given: open_session(given.onnx.read_bytes(), given.onnx, Device("cpu"), None),
    "checks of exports": lambda given: CpuSession(given.graph).run(IMAGE),
    "onnxsim's check": _simplify,
    "calibration": lambda given: calibrate(given.graph, [given.inner], [IMAGE], CalibrationMethod.MIN_MAX),
    "rounded halves": lambda given: candidate_of(given.graph, recipe_of(Precision.FP16))(IMAGE),
    "blocks": lambda given: _blocks(given.onnx),
    "saturation": lambda given: ort.sums_saturate.__wrapped__(),
    "the machine's rate": lambda given: _machine(),
    "exported plainly": lambda given: _plain(given.model, given.folder),
}
#: What runs PyTorch -> how.
RUNS: dict[str, Callable[[Any], object]] = {
    "a runtime": lambda given: _run(given.checkpoint),
    "references": lambda given: _references(given.model),
    "blocks": lambda given: _blocks(given.checkpoint),
    "exporting plainly": lambda given: as_written.export_as_written(given.model, given.folder / "plain.onnx"),
    "eager": lambda given: _baseline("torch", given.checkpoint),
}


@pytest.fixture
def given(tiny_onnx: Path, tiny_checkpoint: Path, tiny_model: ResT, tmp_path: Path) -> SimpleNamespace:
    """What those open and run."""
    graph = whole(onnx.load(str(tiny_onnx)))
    inner = graph.graph.node[0].output[0]
    files = {"onnx": tiny_onnx, "checkpoint": tiny_checkpoint, "folder": tmp_path}
    return SimpleNamespace(**files, model=tiny_model, graph=graph, inner=inner)


@pytest.mark.parametrize("how", SESSIONS)
def test_sessions_have_the_threads_of_the_quota(how: str, one_core: None, seen: Seen, given: SimpleNamespace) -> None:
    SESSIONS[how](given)
    assert seen["onnxruntime"] == {1}


@pytest.mark.parametrize("how", RUNS)
def test_pytorch_has_the_threads_of_the_quota(how: str, one_core: None, seen: Seen, given: SimpleNamespace) -> None:
    RUNS[how](given)
    assert seen["torch"] == {1}


def test_without_a_quota_sessions_have_the_physical_cores(
    monkeypatch: pytest.MonkeyPatch, seen: Seen, given: SimpleNamespace
) -> None:
    monkeypatch.setattr(machine, "physical_cores", lambda: CORES)
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    _run(given.onnx)
    assert seen["onnxruntime"] == {CORES}


def test_calls_at_a_time_follow_the_quota(one_core: None) -> None:
    assert ort._turns(1).qsize() == 8


def test_what_is_asked_for_is_given(one_core: None, seen: Seen, given: SimpleNamespace) -> None:
    """Whoever names a number has a reason."""
    for path in (given.onnx, given.checkpoint):
        with open_runtime(path, threads=2) as runtime:
            runtime.run(IMAGE)
    assert seen == {"onnxruntime": {2}, "torch": {2}}


def test_no_place_is_left_out() -> None:
    """A new place that opens a session or runs PyTorch belongs into the tables above."""
    opening = re.compile(
        r"InferenceSession\(|compile_model\(|inference_mode\(|set_num_threads\(|torch\.(export|onnx)\.export\("
    )
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if opening.search(path.read_text())}
    assert found == {
        "benchmarking/conditions.py",
        "benchmarking/sessions.py",  # is given its number by benchmark()
        "export/as_written.py",
        "export/cpu_session.py",
        "export/onnx_exporter.py",  # translates what trace.py ran
        "export/trace.py",  # computes nothing: shapes alone go through the network
        "models/reference.py",  # its blocks are run by verification/opened.py
        "runtimes/openvino.py",
        "runtimes/ort.py",
        "runtimes/pytorch.py",
    }


def test_pytorch_keeps_a_smaller_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_deploy.models.reference.usable_cores", lambda: CORES)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch_threads():
        assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_runs_that_overlap_put_back_what_was_before_the_first() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(OWN)
    inside, leave, left = threading.Event(), threading.Event(), []

    def other() -> None:
        with torch_threads(2):
            inside.set()
            leave.wait(60)
        left.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with torch_threads(1):
        thread.start()
        assert inside.wait(60)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == OWN
    leave.set()
    thread.join()
    assert left == [OWN]
    assert torch.get_num_threads() == OWN
    torch.set_num_threads(before)


def test_spinning_is_on_unless_it_is_turned_off(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    entries: list[str | None] = []
    real = onnxruntime.InferenceSession

    def opened(model: Any, options: Any, **more: Any) -> Any:
        try:
            entries.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        except RuntimeError:  # it is not set
            entries.append(None)
        return real(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with open_runtime(tiny_onnx) as spinning, open_runtime(tiny_onnx, allow_spinning=False) as sleeping:
        np.testing.assert_array_equal(spinning.run(IMAGE)["logits"], sleeping.run(IMAGE)["logits"])
    assert entries == [None, "0"]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.engine"])
def test_other_runtimes_refuse_to_turn_spinning_off(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: .*\.onnx"):
        open_runtime(tmp_path / name, allow_spinning=False)
