"""``benchmark``: artifacts and baselines against each other, in turns, at every size and batch.

The report is valid at every moment: after Ctrl-C it has what was measured before.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.address import Place
from rest_deploy.artifact.info import PIXEL_CHANNELS
from rest_deploy.artifact.profile import InputSize
from rest_deploy.artifact.workspace import workspace
from rest_deploy.benchmarking.cold import measure_cold
from rest_deploy.benchmarking.conditions import Conditions, measure_rate, probe
from rest_deploy.benchmarking.contenders import (
    PLAIN_ONNX,
    WEIGHTS,
    Contender,
    artifact_contenders,
    baseline_contender,
    check_baselines,
    model_contender,
    on_pictures,
)
from rest_deploy.benchmarking.measure import Call, CaseTimes, Effort, time_case, warm_up_all
from rest_deploy.benchmarking.results import BenchmarkReport, CaseResult, Result
from rest_deploy.benchmarking.sessions import Session
from rest_deploy.benchmarking.statistics import CONFIDENCE, CONFIDENCES, Ratio, paired_ratio
from rest_deploy.environment import CpuTimes, Load, between, describe_environment
from rest_deploy.errors import CheckpointError, ConfigError, MissingPackageError, RestDeployError, one_line
from rest_deploy.machine import usable_cores
from rest_deploy.models.family import NetworkConfig, config_of, family_named, family_of
from rest_deploy.runtimes.base import GpuCall
from rest_deploy.specs import SEED, STAGE_MAPS, THREADS, Device, ImageSize, StepProgress, Taps, input_size
from rest_deploy.values import check

DEFAULT_SIZE = (224, 224)
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_GPU_CALLS = 20
_COLD_SHARE = 0.2  # of the progress


def benchmark(
    artifacts: str | Place | Sequence[str | Place],
    *,
    sizes: Iterable[tuple[int, int] | ImageSize] = (DEFAULT_SIZE,),
    batches: Iterable[int] = (1,),
    baselines: Sequence[str] = (),
    models: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    effort: Effort | None = None,
    confidence: float = CONFIDENCE,
    cold: bool = True,
    relative_to: str | None = None,
    seed: int = 0,
    command: str | None = None,
    report: StepProgress | None = None,
) -> BenchmarkReport:
    """Measure artifacts and baselines in turns, round by round.

    Every contender is called in every round, so a change of the machine affects all of them. Ratios are computed within
    a round, to the first contender of each network.

    Args:
        artifacts: One or several of what :class:`Predictor` opens.
        sizes: (height, width) of the images, in pixels.
        batches: Images of a call; every batch is measured at every size.
        baselines: Of each network: ``"torch"``, ``"torch-compile"``, ``"as-written"``, ``"openvino"``; without files.
        models: Further networks by name, for baselines without an artifact.
        checkpoint: Weights of the baselines; None for random weights, which take the same time.
        device: As of ``Predictor``, and one that every baseline runs on; None for the CPU, and for the first GPU with
            an engine.
        threads: CPU threads of a call; None for one per usable core.
        effort: How long; None for at least 15 rounds and 2.5 seconds of each contender.
        confidence: Of the intervals of the ratios, 0.5 to 1.
        cold: Whether to measure load, first answer and peak memory, in an own process for each contender.
        relative_to: Name of the contender for all ratios, instead of the first of each network.
        seed: Of the images, and of random weights.
        command: The command line, for the record.
        report: Called with the finished share, 0 to 1, and the current step.

    Returns:
        The figures. After Ctrl-C, those so far, with ``interrupted`` set. ``failures`` lists what cannot be measured;
        the others are measured.

    Raises:
        ConfigError: There is nothing to measure, or an argument is not accepted.
        ArtifactError: An artifact cannot be read.
        CheckpointError: The checkpoint cannot be read, or does not fit the network.
        MissingPackageError: psutil is not installed, or torch, which baselines need.
    """
    CpuTimes.now()  # if psutil is missing, fail before any measurement
    threads = usable_cores() if threads is None else int(check(THREADS, threads, "threads"))
    seed = check(SEED, seed, "seed")
    confidence = check(CONFIDENCES, confidence, "confidence")
    given = [artifacts] if isinstance(artifacts, str | Place) else artifacts
    _check_used(given, models, baselines, checkpoint)
    names, effort = check_baselines(baselines), effort or Effort()
    found = artifact_contenders(given, device, threads)
    networks = _networks([*found, *(model_contender(name, device, threads) for name in models)])
    with _workshop() as folder:
        cases = _cases(sizes, batches)
        contenders = tuple(on_pictures(list(_with_baselines(found, networks, names, folder))))
        _check_named(relative_to, contenders)
        settings = {"threads": threads, "device": device, **asdict(effort), "confidence": confidence}
        settings |= {"relative_to": relative_to, "seed": seed}
        made = BenchmarkReport(describe_environment(command), settings, contenders)
        say = report or (lambda share, phase: None)
        try:
            made.errors |= _write_baseline_files(made.contenders, checkpoint, seed)
            if cold:
                _start_cold(made, cases, say)
            _measure(made, cases, effort, say)
        except KeyboardInterrupt:
            made.interrupted = True
    return made


def _check_used(
    artifacts: Sequence[str | Place], models: Sequence[str], baselines: Sequence[str], checkpoint: str | Path | None
) -> None:
    """Refuse arguments that nothing would use.

    Raises:
        ConfigError: Says which, and what to give.
    """
    if checkpoint is not None and not artifacts and not models:
        raise ConfigError(
            f"nothing to measure: --checkpoint sets the weights of baselines; give {checkpoint} as an artifact, or the "
            "name of its network by --model"
        )
    if checkpoint is not None and not baselines:
        raise ConfigError("a checkpoint sets the weights of baselines, and no baseline was requested; give --baseline")
    if models and not baselines:
        raise ConfigError("networks by name are for baselines, and no baseline was requested; give --baseline")


def _cases(sizes: Iterable[tuple[int, int] | ImageSize], batches: Iterable[int]) -> list[InputSize]:
    wanted = [input_size(size) for size in sizes]
    cases = list(dict.fromkeys(InputSize(batch, size) for size in wanted for batch in batches))
    if not cases:
        raise ConfigError("there are no sizes or no batches; give at least one of each")
    return cases


def _networks(contenders: Sequence[Contender]) -> list[Contender]:
    """A contender of each network, the first of it.

    Raises:
        ConfigError: Two different networks have one name.
    """
    first: dict[str, Contender] = {}
    for contender in contenders:
        known = first.setdefault(contender.network, contender)
        if known.config != contender.config:
            raise ConfigError(
                f"{contender.network} is also the name of the network of {known.name}, which has another architecture "
                "or other classes; measure them one at a time"
            )
    return list(first.values())


def _with_baselines(
    artifacts: Sequence[Contender], networks: Sequence[Contender], names: Sequence[str], folder: Path
) -> Iterator[Contender]:
    """All contenders, network by network, artifacts first.

    Raises:
        ConfigError: There are none.
    """
    if not artifacts and not (networks and names):
        raise ConfigError(
            "nothing to measure; give artifacts, which checkpoints are too, or --model NAME with --baseline NAME"
        )
    taken = {artifact.name for artifact in artifacts}  # a model on a server may be named as a baseline is
    for number, network in enumerate(networks):
        yield from (artifact for artifact in artifacts if artifact.network == network.network)
        own, alone = folder / str(number), len(networks) == 1 and taken.isdisjoint(names)
        yield from (baseline_contender(name, network, own, alone=alone) for name in names)


def _check_named(name: str | None, contenders: Sequence[Contender]) -> None:
    if name is not None and name not in [contender.name for contender in contenders]:
        known = ", ".join(contender.name for contender in contenders)
        raise ConfigError(f"no contender for the ratios is named {name!r}; accepted: {known}")


def _write_baseline_files(contenders: Sequence[Contender], checkpoint: str | Path | None, seed: int) -> dict[str, str]:
    """Write the files that baselines open; returns each baseline whose file could not be written -> why."""
    baselines = [contender for contender in contenders if contender.baseline is not None]
    if not baselines:
        return {}
    try:
        from rest_deploy.export import as_written  # noqa: F401
        from rest_deploy.models import checkpoint as _  # noqa: F401
    except ModuleNotFoundError as exc:
        raise MissingPackageError((exc.name or "torch").split(".")[0], "make the files of baselines", "export") from exc
    weights = Path(checkpoint) if checkpoint is not None else None
    errors: dict[str, str] = {}
    for place in dict.fromkeys(Path(one.file).parent for one in baselines):
        place.mkdir()
        own = [one for one in baselines if Path(one.file).parent == place]
        artifacts = (one.name for one in contenders if one.baseline is None and one.network == own[0].network)
        why = write_files(own, place, weights, seed, of=next(artifacts, own[0].network))
        errors |= {one.name: why[Path(one.file).name] for one in own if Path(one.file).name in why}
    return errors


def write_files(
    baselines: Sequence[Contender], folder: Path, checkpoint: Path | None, seed: int, *, of: str
) -> dict[str, str]:
    """Write the files that the baselines of one network open.

    Args:
        baselines: The baselines.
        folder: Folder of the files.
        checkpoint: Their weights; None for random ones.
        seed: Of random weights.
        of: Name of the network or of its artifact, for messages.

    Returns:
        Name of each file that PyTorch could not export -> why.

    Raises:
        CheckpointError: The checkpoint does not fit the network.
    """
    from rest_deploy.export.as_written import export_as_written
    from rest_deploy.models.checkpoint import save_checkpoint
    from rest_deploy.models.factory import load_model

    first = baselines[0]
    try:
        model = load_model(config_of(first), checkpoint, seed=seed if checkpoint is None else None).model
    except CheckpointError as exc:
        if checkpoint is None or not (told := _another_network(config_of(first), checkpoint, of)):
            raise
        raise CheckpointError(told) from exc
    needed = {Path(one.file).name for one in baselines}
    if WEIGHTS in needed:
        save_checkpoint(folder / WEIGHTS, model, name=first.network)
    if PLAIN_ONNX in needed:
        try:
            export_as_written(model, folder / PLAIN_ONNX, first.channels)
        except Exception as exc:  # torch.onnx raises its own types and whatever its translations raise
            return {PLAIN_ONNX: f"PyTorch could not export it: {one_line(exc)}"}
    return {}


def _another_network(config: NetworkConfig, checkpoint: Path, of: str) -> str:
    """Why a checkpoint belongs to another network, in words; empty if it is damaged."""
    from rest_deploy.models.checkpoint import load_checkpoint
    from rest_deploy.models.factory import read_config

    family, loaded = family_of(config), load_checkpoint(checkpoint)
    advice = f"give --checkpoint the weights of {of}, or leave it out"
    if loaded.family is not family:
        return f"{of} is a {family.title} and {checkpoint} a {loaded.family.title}; {advice}"
    found, _ = read_config(loaded, None)
    if replace(found, num_classes=config.num_classes) == config:
        return ""
    return f"{of} and {checkpoint} are {family.title}s of different architectures; {advice}"


def _start_cold(made: BenchmarkReport, cases: Sequence[InputSize], say: StepProgress) -> None:
    """Start each contender in its own process."""
    able = [contender for contender in made.contenders if contender.name not in made.errors]
    for number, contender in enumerate(able):
        say(_COLD_SHARE * number / len(able), f"first start of {contender.name}")
        fitting = [case for case in cases if not _too_large(contender, case)]
        if fitting:
            made.cold[contender.name] = measure_cold(contender, fitting)


def _too_large(contender: Contender, case: InputSize) -> str:
    """Why too little memory is free for a contender in a case; empty if there is enough."""
    try:
        contender.check_memory(case)
    except RestDeployError as exc:
        return one_line(exc)
    return ""


def _measure(made: BenchmarkReport, cases: Sequence[InputSize], effort: Effort, say: StepProgress) -> None:
    """Open all, and measure every case."""
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for contender in made.contenders:
            if contender.name in made.errors:
                continue
            try:
                session = stack.enter_context(contender.open())
            except (RestDeployError, MemoryError) as exc:
                made.errors[contender.name] = one_line(exc)
                continue
            made.descriptions[contender.name], made.facts[contender.name] = session.description, session.facts
            sessions[contender.name] = session
        made.machine = measure_rate(made.settings["threads"])
        product = probe()
        for number, case in enumerate(cases):
            share = _COLD_SHARE + (1 - _COLD_SHARE) * number / len(cases)
            refused = _refused(made, case)
            images = _images(made, case, [name for name in sessions if name not in refused])
            calls = {name: partial(sessions[name].run, batch) for name, batch in images.items()}
            times, load = _time(case, calls, effort, product=product, say=partial(say, share))
            times.errors |= {**refused, **made.errors}
            conditions = Conditions(load, tuple(times.probe))
            results = [_result(made, contender, case, times) for contender in made.contenders]
            made.cases.append(CaseResult(case, tuple(results), conditions))
            if times.interrupted:
                made.interrupted = True
                return
            results = [_with_gpu(made, result, case, sessions, images) for result in results]
            made.cases[-1] = CaseResult(case, tuple(results), conditions)


def _refused(made: BenchmarkReport, case: InputSize) -> dict[str, str]:
    """Contenders that are not run in a case, because it may end this process -> why."""
    found = {name: why for name, why in ((own.name, _too_large(own, case)) for own in made.contenders) if why}
    for name, cold in made.cold.items():
        if cold.killed and str(case) not in cold.peak_mib:  # in its own process; here it would end this one
            found.setdefault(name, f"{cold.error} (first start)")
    return found


def _images(made: BenchmarkReport, case: InputSize, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Contender -> its batch; contenders with the same number of channels share it, and all share pictures."""
    rng, batches, found = np.random.default_rng(made.settings["seed"]), dict[int, NDArray[Any]](), {}
    for own in made.contenders:
        channels = PIXEL_CHANNELS if own.pictures else own.channels
        if own.name in names:
            if channels not in batches:
                batches[channels] = own.batch(case, rng)
            found[own.name] = batches[channels]
    return found


def _time(
    case: InputSize, calls: Mapping[str, Call], effort: Effort, *, product: Call, say: Callable[[str], None]
) -> tuple[CaseTimes, Load]:
    """Raw seconds of a case, and the load by others."""
    times = warm_up_all(calls, lambda name: say(f"{case}: warming up {name}"))
    before = CpuTimes.now()
    time_case(calls, times, effort, probe=product, report=lambda done: say(f"{case}: {done} rounds"))
    return times, between(before, CpuTimes.now())


def _result(made: BenchmarkReport, contender: Contender, case: InputSize, times: CaseTimes) -> Result:
    error, rounds = times.errors.get(contender.name), times.rounds.get(contender.name, [])
    if error is not None or not rounds:
        return Result(contender.name, case.batch, error or "interrupted before its first round was finished")
    whole = not contender.features or Taps(tuple(contender.features)).last_stage == len(STAGE_MAPS)
    result = Result(
        contender=contender.name,
        batch=case.batch,
        warmup=tuple(times.warmups[contender.name]),
        rounds=tuple(tuple(calls) for calls in rounds),
        flop=family_named(contender.family).flops(config_of(contender), case.batch, contender.seen(case).size)
        if whole
        else 0,
        ratio=_ratio(made, contender, times),
    )
    if made.machine is None or result.gflops is None or not Device.parse(contender.where).in_memory:
        return result
    return replace(result, share=result.gflops / made.machine.gflops)


def _ratio(made: BenchmarkReport, contender: Contender, times: CaseTimes) -> Ratio | None:
    """To the first of its network and device that ran, or to the requested one."""
    wanted = made.settings["relative_to"]
    for other in made.contenders:
        alike = (other.network, other.where) == (contender.network, contender.where)
        if (alike if wanted is None else other.name == wanted) and times.rounds.get(other.name):
            if other.name == contender.name:
                return None
            rounds = times.rounds[contender.name], times.rounds[other.name]
            return paired_ratio(*rounds, other.name, made.settings["confidence"])
    return None


def _with_gpu(
    made: BenchmarkReport,
    result: Result,
    case: InputSize,
    sessions: Mapping[str, Session],
    images: Mapping[str, NDArray[Any]],
) -> Result:
    if result.error is not None:
        return result
    try:
        calls = sessions[result.contender].gpu_calls(images[result.contender], _GPU_CALLS)
    except RestDeployError as exc:
        made.notes.append(f"{result.contender} at {case}: its time on the GPU was not measured: {one_line(exc)}")
        return result
    return replace(result, gpu=gpu_medians(calls)) if calls else result


def gpu_medians(calls: Sequence[GpuCall]) -> dict[str, Any]:
    """Median of each figure, and the number of calls, as plain values for JSON."""
    names = list(GpuCall.__dataclass_fields__)
    return {name: statistics.median(getattr(call, name) for call in calls) for name in names} | {"calls": len(calls)}


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for the files of baselines and the cache of torch.compile, whose first start must find it empty."""
    before = os.environ.get(_COMPILER_CACHE)
    with workspace(tempfile.gettempdir(), "rest-bench") as folder:
        os.environ[_COMPILER_CACHE] = str(folder / "compiled")
        try:
            yield folder
        finally:
            if before is None:
                del os.environ[_COMPILER_CACHE]
            else:
                os.environ[_COMPILER_CACHE] = before
