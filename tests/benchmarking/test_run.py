"""``benchmark`` from artifacts to figures, for real and with contenders whose times are planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rest_deploy import benchmark, create_model, save_checkpoint
from rest_deploy.artifact.address import located
from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking import BenchmarkReport, Effort
from rest_deploy.benchmarking.cold import Cold
from rest_deploy.benchmarking.contenders import Contender, artifact_contenders, baseline_contender, on_pictures
from rest_deploy.benchmarking.run import _with_baselines
from rest_deploy.benchmarking.sessions import Session
from rest_deploy.errors import ArtifactError, CheckpointError, ConfigError, RestDeployError
from rest_deploy.export import as_written
from rest_deploy.models.family import family_of
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.predictor import Predictor
from rest_deploy.specs import ImageSize
from tests.conftest import ROOT, TINY, TINY_V2, slow

QUICK = Effort(min_rounds=8, min_seconds=0.0)


@pytest.fixture(scope="module")
def real(tiny_onnx: Path, tiny_checkpoint: Path) -> BenchmarkReport:
    """Two copies of one file, its checkpoint, and the baselines that every environment of tests has."""
    return benchmark(
        [tiny_onnx, tiny_onnx, tiny_checkpoint],
        sizes=[(24, 32), ImageSize(16, 16)],
        batches=[1, 2],
        baselines=["torch", "as-written"],
        effort=QUICK,
        threads=1,  # PyTorch's threads wait for each other, for long where other tests run beside
        command="rest-bench x",
    )


@pytest.mark.slow
def test_everything_is_measured_in_every_case(real: BenchmarkReport) -> None:
    assert [str(case.case) for case in real.cases] == ["1x24x32", "2x24x32", "1x16x16", "2x16x16"]
    names = ["tiny.onnx", "tiny.onnx (2)", "tiny.safetensors", "torch", "as-written"]
    assert [contender.name for contender in real.contenders] == names
    for case in real.cases:
        assert [result.contender for result in case.results] == names
        assert all(result.error is None and len(result.rounds) == case.rounds for result in case.results)
        assert [result.ratio.to if result.ratio else None for result in case.results] == [None, *["tiny.onnx"] * 4]
    assert real.failures == []
    assert not real.interrupted


@pytest.mark.slow
def test_what_is_derived_from_the_raw_times(real: BenchmarkReport) -> None:
    record = json.loads(json.dumps(real.to_dict(), allow_nan=False))
    case = record["cases"][1]
    result = case["results"][0]
    calls = [ms for calls in result["rounds_ms"] for ms in calls]
    assert result["calls"] == len(calls)
    assert result["p50_ms"] == pytest.approx(np.median(calls))
    assert result["mean_ms"] == pytest.approx(np.mean(calls))
    assert result["images_per_second"] == pytest.approx(2e3 / np.median(calls))
    assert result["gflop"] == family_of(TINY).flops(TINY, 2, ImageSize(24, 32)) / 1e9
    assert result["gflops"] == pytest.approx(result["gflop"] * 1e3 / np.median(calls))
    assert result["share_of_machine"] == pytest.approx(result["gflops"] / record["machine"]["gflops"])
    assert len(result["warmup_ms"]) >= 2
    assert record["environment"]["command"] == "rest-bench x"
    assert record["settings"]["min_rounds"] == 8
    assert case["conditions"]["probe_ms"] > 0


@pytest.mark.slow
def test_a_first_start_is_measured_in_a_process_of_its_own(real: BenchmarkReport) -> None:
    for contender in real.contenders:
        cold = real.cold[contender.name]
        assert cold.error is None
        assert cold.load_ms is not None
        assert cold.first_answer_ms is not None
        assert min(cold.load_ms, cold.first_answer_ms) > 0
        peaks = [cold.peak_mib[str(case)] for case in ("1x16x16", "2x16x16", "1x24x32", "2x24x32")]
        assert peaks == sorted(peaks)
    assert real.cold["torch"].peak_mib["1x16x16"] > real.cold["tiny.onnx"].peak_mib["1x16x16"]  # it has torch in it


@pytest.mark.slow
def test_a_record_tells_what_was_measured(real: BenchmarkReport, tiny_onnx: Path) -> None:
    record = real.to_dict()
    first, *_, torch_baseline, _ = record["contenders"]
    assert (first["kind"], first["bytes"], first["device"]) == ("artifact", tiny_onnx.stat().st_size, "cpu")
    assert first["description"].startswith("ONNX Runtime ")
    assert first["sha256"] is not None
    assert (torch_baseline["kind"], torch_baseline["path"], torch_baseline["sha256"]) == ("baseline", None, None)
    assert {contender["network"] for contender in record["contenders"]} == {"tiny"}


class Planted(Session):
    """A session that takes as long as it is told, on a clock that the test sets."""

    def __init__(self, wait: Callable[[tuple[int, ...]], None]) -> None:
        self._wait = wait
        self.description = "planted"
        self.closed = False

    def run(self, batch: Any) -> Any:
        self._wait(batch.shape)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> Callable[..., BenchmarkReport]:
    """Benchmark copies of one file that take planted milliseconds, by name."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("rest_deploy.benchmarking.run.measure_rate", lambda threads: None)
    monkeypatch.setattr("rest_deploy.benchmarking.run.probe", lambda: lambda: tick(10.0))

    def tick(ms: float) -> None:
        now[0] += ms / 1e3

    def run(*plants: Callable[[tuple[int, ...]], float] | float, **options: Any) -> BenchmarkReport:
        made: dict[str, Planted] = {}

        def opened(contender: Contender) -> Session:
            plant = plants[names.index(contender.name)]
            session = Planted(lambda shape: tick(plant(shape) if callable(plant) else plant))
            made[contender.name] = session
            return session

        names = [c.name for c in artifact_contenders([tiny_onnx] * len(plants), None, 1)]
        monkeypatch.setattr(Contender, "open", opened)
        report = benchmark([tiny_onnx] * len(plants), cold=False, effort=QUICK, threads=1, **options)
        assert all(session.closed for session in made.values())
        return report

    return run


def test_planted_times_come_out(planted: Callable[..., BenchmarkReport]) -> None:
    made = planted(5.0, 5.5, 4.0, 5.05)
    results = made.cases[0].results
    assert [result.percentile_ms(0.5) for result in results] == pytest.approx([5.0, 5.5, 4.0, 5.05])
    ratios = [result.ratio for result in results[1:]]
    assert [ratio.median for ratio in ratios if ratio] == pytest.approx([1.1, 0.8, 1.01])
    assert [ratio.verdict.value for ratio in ratios if ratio] == ["slower", "faster", "no difference beyond noise"]


def test_ratios_to_another_contender(planted: Callable[..., BenchmarkReport]) -> None:
    made = planted(5.0, 10.0, relative_to="tiny.onnx (2)")
    first, second = made.cases[0].results
    assert first.ratio is not None
    assert (first.ratio.to, first.ratio.median) == ("tiny.onnx (2)", pytest.approx(0.5))
    assert second.ratio is None


def test_what_fails_at_a_size_does_not_lose_the_others(planted: Callable[..., BenchmarkReport]) -> None:
    def small_only(shape: tuple[int, ...]) -> float:
        if shape[2] > 32:
            raise RestDeployError("outside of what it was built for")
        return 5.0

    made = planted(small_only, 6.0, sizes=[(32, 32), (64, 64)])
    assert [result.error for result in made.cases[0].results] == [None, None]
    assert [result.error for result in made.cases[1].results] == ["outside of what it was built for", None]
    assert made.cases[1].results[1].ratio is None  # there is nobody to be compared with
    assert made.failures == ["tiny.onnx at 1x64x64: outside of what it was built for"]


def test_what_fails_in_a_round_does_not_lose_the_others(planted: Callable[..., BenchmarkReport]) -> None:
    calls = [0]

    def later(shape: tuple[int, ...]) -> float:
        calls[0] += 1
        if calls[0] > 40:
            raise RestDeployError("out of memory")
        return 5.0

    made = planted(6.0, later)
    first, second = made.cases[0].results
    assert (first.error, len(first.rounds)) == (None, 8)
    assert second.error == "out of memory"
    assert made.failures == ["tiny.onnx (2) at 1x224x224: out of memory"]


def test_what_was_killed_at_its_first_start_is_not_run_beside_the_others(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(contender: Contender, cases: Any) -> Cold:
        if contender.name == "tiny.onnx":
            return Cold(1.0, 1.0, {"1x16x16": 80.0, "1x24x24": 90.0}, None)
        return Cold(1.0, 1.0, {"1x16x16": 80.0}, "signal 9 ended its process", killed=True)

    monkeypatch.setattr("rest_deploy.benchmarking.run.measure_cold", killed)
    made = benchmark([tiny_onnx, tiny_onnx], sizes=[(16, 16), (24, 24)], effort=QUICK, threads=1)
    assert [result.error for result in made.cases[0].results] == [None, None]
    assert made.cases[1].results[1].error == "signal 9 ended its process (first start)"


def _needs(monkeypatch: pytest.MonkeyPatch, gib: Callable[[int, int], float]) -> None:
    """A machine with 1 GiB free, and networks that need memory by their batch and height."""
    monkeypatch.setattr("rest_deploy.machine.available_bytes", lambda: 1 << 30)
    needed = "rest_deploy.benchmarking.contenders.network_bytes"
    monkeypatch.setattr(needed, lambda config, batch, height, width, **_: int(gib(batch, height) * 2**30))


def test_what_needs_more_memory_than_is_free_is_not_run(
    planted: Callable[..., BenchmarkReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that the kernel kills would take every figure with it."""
    _needs(monkeypatch, lambda batch, height: 5.0 if height > 64 else 0.1)
    made = planted(lambda shape: 5.0 if shape[2] < 128 else pytest.fail("ran"), sizes=[(64, 64), (128, 128)])
    assert made.cases[0].results[0].error is None
    (error,) = (result.error for result in made.cases[1].results)
    assert error is not None
    assert "an input of 128x128 would take about 5.0 GiB, and 1.0 GiB are free: at most about 4,096 pixels" in error
    assert made.failures == [f"tiny.onnx at 1x128x128: {error}"]


def test_no_process_is_started_for_what_needs_more_memory_than_is_free(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def cold(contender: Contender, cases: Any) -> Cold:
        started.append([str(case) for case in cases])
        return Cold(1.0, 1.0, {str(case): 80.0 for case in cases}, None)

    monkeypatch.setattr("rest_deploy.benchmarking.run.measure_cold", cold)
    _needs(monkeypatch, lambda batch, height: float(batch * (height > 16)))
    made = benchmark([tiny_onnx], sizes=[(16, 16), (24, 24)], batches=[1], effort=QUICK, threads=1)
    assert started == [["1x16x16"]]
    assert [case.results[0].error is None for case in made.cases] == [True, False]
    made = benchmark([tiny_onnx], sizes=[(24, 24)], batches=[2], effort=QUICK, threads=1)
    assert started == [["1x16x16"]]
    assert made.cold == {}
    assert "2x24x24" in made.failures[0]


def test_baselines_are_measured_by_their_own_format(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def needed(config: Any, *size: int, **how: Any) -> int:
        asked.append((how["format"], how["block"], size))
        return 0

    monkeypatch.setattr("rest_deploy.benchmarking.contenders.network_bytes", needed)
    (own,) = artifact_contenders([tiny_onnx], None, 1)
    own = replace(own, block=4096)
    assert Contender.from_json(own.to_json()) == own
    baselines = ("torch", "torch-compile", "as-written")
    for contender in (own, *(baseline_contender(name, own, Path(), alone=True) for name in baselines)):
        contender.check_memory(InputSize(2, ImageSize(3, 4)))
    formats = [("onnx", 4096), ("pytorch", None), ("onnx", None), ("onnx", None)]
    assert asked == [(format, block, (2, 3, 4)) for format, block in formats]
    replace(own, device="cuda").check_memory(InputSize(2, ImageSize(3, 4)))
    assert len(asked) == 4


def test_ctrl_c_keeps_what_was_measured(planted: Callable[..., BenchmarkReport]) -> None:
    calls = [0]

    def interrupted(shape: tuple[int, ...]) -> float:
        calls[0] += shape[2] > 32
        if calls[0] > 60:
            raise KeyboardInterrupt
        return 5.0

    made = planted(interrupted, 6.0, sizes=[(32, 32), (64, 64), (96, 96)])
    assert made.interrupted
    assert made.cases[0].rounds == 8
    assert 0 < made.cases[1].rounds < 8
    assert len(made.cases) == 2
    assert json.loads(json.dumps(made.to_dict()))["interrupted"] is True


def test_ctrl_c_in_a_warm_up(planted: Callable[..., BenchmarkReport]) -> None:
    def interrupted(shape: tuple[int, ...]) -> float:
        if shape[2] > 32:
            raise KeyboardInterrupt
        return 5.0

    made = planted(interrupted, 6.0, sizes=[(32, 32), (64, 64)])
    assert made.interrupted
    assert [str(case.case) for case in made.cases] == ["1x32x32"]


def test_what_cannot_be_opened_is_told(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Contender.open

    def opened(contender: Contender) -> Session:
        if contender.name.endswith("(2)"):
            raise ArtifactError("damaged\nin two lines")
        return honest(contender)

    monkeypatch.setattr(Contender, "open", opened)
    made = benchmark([tiny_onnx, tiny_onnx], sizes=[(16, 16)], effort=QUICK, cold=False)
    assert made.failures == ["tiny.onnx (2): damaged in two lines"]
    assert made.cases[0].results[0].error is None
    assert made.to_dict()["contenders"][1]["error"] == "damaged in two lines"


@pytest.mark.slow
def test_baselines_without_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is made by name. Through torch.compile a network of two blocks takes a minute, so it is not."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    small = ResTConfig(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), sr_ratios=(8, 4, 2, 1), num_classes=7)
    monkeypatch.setattr("rest_deploy.benchmarking.contenders.get_config", lambda name: small)
    made = benchmark(
        [],
        models=["rest_lite"],
        baselines=["torch", "torch-compile", "torch"],
        sizes=[(32, 40)],
        effort=QUICK,
        cold=False,
    )
    assert [contender.name for contender in made.contenders] == ["torch", "torch-compile"]
    assert made.failures == []
    assert len(compiled) == 1
    assert made.cases[0].results[1].ratio is not None
    assert made.cases[0].results[1].ratio.to == "torch"


@pytest.mark.slow
def test_networks_are_compared_among_themselves(tiny_onnx: Path, lite_onnx: Path) -> None:
    made = benchmark(
        [tiny_onnx, lite_onnx, tiny_onnx],
        sizes=[(16, 16)],
        baselines=["as-written"],
        effort=QUICK,
        threads=1,
        cold=False,
    )
    told = [(c.name, c.network) for c in made.contenders]
    assert told == [
        ("tiny.onnx", "tiny"), ("tiny.onnx (2)", "tiny"), ("tiny as-written", "tiny"),
        ("rest_lite.onnx", "rest_lite"), ("rest_lite as-written", "rest_lite"),
    ]  # fmt: skip
    ratios = [result.ratio.to if result.ratio else None for result in made.cases[0].results]
    assert ratios == [None, "tiny.onnx", "tiny.onnx", None, "rest_lite.onnx"]


def test_the_baselines_compute_the_same_network(tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With the checkpoint's weights each gives its logits; as-written and OpenVINO lose some accuracy."""
    from rest_deploy.benchmarking.run import write_files

    (artifact,) = artifact_contenders([tiny_onnx], None, 2)
    names = ["torch", "as-written"]
    try:
        import openvino  # noqa: F401

        names.append("openvino")
    except ImportError:
        pass  # an extra of its own; the test of its absence is below
    baselines = [baseline_contender(name, artifact, tmp_path, alone=True) for name in names]
    assert write_files(baselines, tmp_path, tiny_checkpoint, 0, of="tiny") == {}
    batch = np.random.default_rng(0).standard_normal((2, 3, 40, 56)).astype(np.float32)
    with Predictor(tiny_onnx) as predictor:
        exact = predictor.logits(batch)
    for baseline in baselines:
        with baseline.open() as session:
            made = session.run(batch)
            assert session.description
        logits = made["logits"] if isinstance(made, dict) else made
        np.testing.assert_allclose(logits, exact, atol=0.02 * exact.std())


def test_an_export_that_fails_is_its_baselines_error(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("an operator that it does not know")

    monkeypatch.setattr(as_written, "export_as_written", refuse)
    made = benchmark(
        [tiny_onnx], baselines=["as-written", "torch"], sizes=[(16, 16)], effort=QUICK, threads=1, cold=False
    )
    assert made.failures == ["as-written: PyTorch could not export it: an operator that it does not know"]
    assert [result.error is None for result in made.cases[0].results] == [True, False, True]


@pytest.mark.parametrize("package", ["torch", *slow(["safetensors"])])
def test_baselines_whose_files_cannot_be_made_here(package: str, tiny_onnx: Path) -> None:
    """In a process of its own, as modules that are loaded stay reachable through their packages."""
    code = f"""
import sys
sys.modules[{package!r}] = None
from rest_deploy import benchmark
from rest_deploy.errors import MissingPackageError
try:
    benchmark([{str(tiny_onnx)!r}], baselines=["torch"], sizes=[(16, 16)], cold=False)
except MissingPackageError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.startswith(f"{package} is needed to make the files of baselines"), done.stderr[-500:]


def test_a_baseline_whose_package_is_missing(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    made = benchmark([tiny_onnx], baselines=["openvino"], sizes=[(16, 16)], effort=QUICK, cold=False)
    (failure,) = made.failures
    assert 'pip install "rest-deploy[openvino]"' in failure
    assert made.cases[0].results[0].error is None


def test_openvino_runs_on_the_cpu_alone(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO, an extra of its own, is not installed")
    from rest_deploy.benchmarking.sessions import OpenVinoSession
    from rest_deploy.errors import DeviceError

    with pytest.raises(DeviceError, match="device cuda: "):
        OpenVinoSession(tmp_path / "x.onnx", "cuda", 1)
    with pytest.raises(RestDeployError, match=r"cannot load x\.onnx"):
        OpenVinoSession(tmp_path / "x.onnx", None, 1)


def test_the_compilers_cache_is_its_own_and_the_users_is_left(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/the/users")
    seen = []
    honest = Contender.open

    def opened(contender: Contender) -> Session:
        seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return honest(contender)

    monkeypatch.setattr(Contender, "open", opened)
    benchmark([tiny_onnx], sizes=[(16, 16)], effort=QUICK, cold=False)
    assert seen[0].endswith("compiled")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/the/users"
    assert not Path(seen[0]).parent.exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"artifacts": []}, "nothing to measure"),
        ({"sizes": []}, "no sizes or no batches"),
        ({"batches": []}, "no sizes or no batches"),
        ({"batches": [0]}, "batch is 0; accepted: a whole number"),
        ({"sizes": [(0, 5)]}, r"size\[0\] is 0; accepted: a whole number"),
        ({"threads": 0}, "threads is 0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"baselines": ["tensorflow"]}, "accepted: torch, torch-compile, as-written, openvino"),
        ({"models": ["resnet50"], "baselines": ["torch"]}, "unknown model 'resnet50'"),
        ({"relative_to": "other.onnx"}, "named 'other.onnx'"),
        ({"checkpoint": "x.pth"}, "give --baseline"),
        ({"artifacts": [], "checkpoint": "x.pth", "baselines": ["torch"]}, "give x.pth as an artifact, or the name"),
        ({"models": ["rest_lite"]}, "give --baseline"),
    ],
)
def test_what_cannot_be_meant(tiny_onnx: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        benchmark(**{"artifacts": [tiny_onnx], "cold": False, **asked})


@pytest.mark.parametrize(
    ("config", "words"),
    [(TINY_V2, "is a ResT and {} a ResTv2"), (replace(TINY, depths=(1, 1, 1, 1)), "and {} are ResTs")],
)
def test_weights_of_another_network(
    tiny_onnx: Path, tmp_path: Path, config: ResTConfig | ResTv2Config, words: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, create_model(config), name="other")
    told = rf"^tiny\.onnx {words.format(path)}.*; give --checkpoint the weights of tiny\.onnx, or leave it out$"
    with pytest.raises(CheckpointError, match=told):
        benchmark([tiny_onnx], baselines=["torch"], checkpoint=path, cold=False)


def test_a_network_by_name_that_an_artifact_has_with_other_classes(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ResTConfig.from_dict({**TINY.to_dict(), "num_classes": 9})
    monkeypatch.setattr("rest_deploy.benchmarking.contenders.get_config", lambda name: other)
    with pytest.raises(ConfigError, match=r"^tiny is .* tiny\.onnx"):
        benchmark([tiny_onnx], models=["tiny"], baselines=["torch"], cold=False)


def test_a_baseline_and_a_model_of_one_name(tiny_onnx: Path, tmp_path: Path) -> None:
    """Of files none has such a name: they have a suffix."""
    served = replace(artifact_contenders([tiny_onnx], None, 1)[0], name="torch")
    names = [own.name for own in _with_baselines([served], [served], ["torch"], tmp_path)]
    assert names == ["torch", "tiny torch"]


def test_one_artifact_by_its_address() -> None:
    """As :func:`verify` takes it, and :func:`located` gives it; nothing listens there."""
    with pytest.raises(RestDeployError, match="localhost:1"):
        benchmark(located("http://localhost:1/tiny"))


def test_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        benchmark([tmp_path / "none.onnx"])


def test_two_files_of_one_name(tiny_export: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = run_export(ExportRequest(None, tmp_path / "tiny.onnx", checkpoint=tiny_checkpoint, verify=False)).path
    names = [contender.name for contender in artifact_contenders([tiny_export.path, other], None, 1)]
    assert names == [str(tiny_export.path), str(other)]


def test_all_contenders_get_the_same_pictures(tiny_by_input: dict[str, Path]) -> None:
    """What a file leaves to its caller is part of a call, so that answers are equal; the work is the network's own."""
    contenders = on_pictures(artifact_contenders(list(tiny_by_input.values()), None, 1))
    case = InputSize(2, ImageSize(70, 90))
    batches = [own.batch(case, np.random.default_rng(0)) for own in contenders]
    answers = []
    for own, batch in zip(contenders, batches, strict=True):
        assert (batch.dtype, batch.shape) == (np.uint8, (2, 70, 90, 3))
        with own.open() as session:
            answers.append(session.run(batch)["logits"])
    assert all(np.array_equal(answers[0], other) for other in answers[1:])
    found = benchmark(list(tiny_by_input.values()), sizes=[(70, 90)], effort=QUICK, cold=False)
    assert found.failures == []
    flops = {result.flop for result in found.cases[0].results}
    assert flops == {family_of(TINY).flops(TINY, 1, ImageSize(48, 33))}


def test_pictures_in_different_ways_are_not_compared(tiny_by_input: dict[str, Path], tiny_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"in different ways \(pixels\.onnx: crop 48x33 .*; tiny\.onnx: "):
        benchmark([tiny_by_input["pixels"], tiny_onnx], effort=QUICK, cold=False)
