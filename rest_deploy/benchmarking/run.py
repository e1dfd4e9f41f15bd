"""``benchmark``: artifacts and baselines against each other, in turns, at every size and batch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rest_deploy.artifact.profile import InputSize
from rest_deploy.artifact.workspace import workspace
from rest_deploy.benchmarking.contenders import (
    Contender,
    artifact_contenders,
    baseline_contender,
    check_baselines,
    model_contender,
)
from rest_deploy.benchmarking.measure import Effort
from rest_deploy.benchmarking.results import BenchmarkReport
from rest_deploy.benchmarking.statistics import CONFIDENCE, CONFIDENCES
from rest_deploy.benchmarking.turns import Plan, Progress, Turns
from rest_deploy.environment import CpuTimes, describe_environment
from rest_deploy.errors import ConfigError, MissingPackageError
from rest_deploy.machine import usable_cores
from rest_deploy.specs import SEED, THREADS, ImageSize, input_size
from rest_deploy.values import check

DEFAULT_SIZE = (224, 224)
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def benchmark(
    artifacts: Sequence[str | Path],
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
    report: Progress | None = None,
) -> BenchmarkReport:
    """Measure artifacts and baselines in turns, round by round.

    Every contender is called in every round, so that what the machine does meanwhile happens to all of them, and
    ratios are formed within a round, to the first contender of each network.

    Args:
        artifacts: What :class:`Predictor` opens.
        sizes: (height, width) of the images, in pixels.
        batches: Images of a call; every batch is measured at every size.
        baselines: Of each network: ``"torch"``, ``"torch-compile"``, ``"as-written"``, ``"openvino"``; without files.
        models: Further networks by name, for baselines without any artifact.
        checkpoint: Weights of the baselines; without, they are random, which takes as long.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; None for the CPU, of an engine for the first GPU.
        threads: CPU threads of a call; None takes one for each usable core.
        effort: How long; None for 15 rounds and 2.5 seconds of each contender at least.
        confidence: Of the intervals of the ratios, 0.5 to 1.
        cold: Whether to measure load, first answer and peak memory, in a process of its own for each contender.
        relative_to: Name of the contender that all ratios are formed to, in place of the first of each network.
        seed: Of the images, and of random weights.
        command: That asked for it, for the record.
        report: Called with the share that is done, 0 to 1, and what it is at.

    Returns:
        The figures. Where Ctrl-C came, those so far, and ``interrupted`` says so. What cannot be measured is among its
        ``failures``, and the others are measured.

    Raises:
        ConfigError: Nothing to measure, or something that cannot be meant.
        ArtifactError: An artifact cannot be read.
        CheckpointError: The checkpoint cannot be read, or does not fit the network.
        MissingPackageError: psutil is not installed, or torch, which baselines need.
    """
    CpuTimes.now()  # psutil is missing now, before anything is measured, or not at all
    threads = _checked_threads(threads)
    seed = check(SEED, seed, "seed")
    confidence = check(CONFIDENCES, confidence, "confidence")
    if checkpoint is not None and not baselines:
        raise ConfigError("a checkpoint gives baselines their weights, and no baseline was asked for; give --baseline")
    if models and not baselines:
        raise ConfigError("networks by name are for baselines, and none was asked for; give --baseline")
    names, effort = check_baselines(baselines), effort or Effort()
    found = artifact_contenders([artifacts] if isinstance(artifacts, (str, Path)) else artifacts, device, threads)
    networks = _networks([*found, *(model_contender(name, device, threads) for name in models)])
    with _workshop() as folder:
        contenders = tuple(_with_baselines(found, networks, names, folder))
        _check_named(relative_to, contenders)
        made = BenchmarkReport(
            environment=describe_environment(command),
            settings={
                "threads": threads,
                "device": device,
                **asdict(effort),
                "confidence": confidence,
                "relative_to": relative_to,
                "seed": seed,
            },
            contenders=contenders,
        )
        plan = Plan(_cases(sizes, batches), effort, confidence, threads, relative_to, seed)
        try:
            made.errors |= _write_baseline_files(made.contenders, folder, checkpoint, seed)
            turns = Turns(made, plan, report)
            if cold:
                turns.start_cold()
            turns.measure()
        except KeyboardInterrupt:
            made.interrupted = True
    return made


def _checked_threads(threads: int | None) -> int:
    return usable_cores() if threads is None else int(check(THREADS, threads, "threads"))


def _cases(sizes: Iterable[tuple[int, int] | ImageSize], batches: Iterable[int]) -> list[InputSize]:
    wanted = [input_size(size) for size in sizes]
    cases = list(dict.fromkeys(InputSize(batch, size) for size in wanted for batch in batches))
    if not cases:
        raise ConfigError("no sizes or no batches were given; a benchmark needs at least one of each")
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
                f"{contender.network} is the name of the network of {known.name} too, which has another architecture "
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
        raise ConfigError("nothing to measure; give artifacts, or --model NAME with --baseline NAME")
    for number, network in enumerate(networks):
        yield from (artifact for artifact in artifacts if artifact.network == network.network)
        own = folder / str(number)
        yield from (baseline_contender(name, network, own, alone=len(networks) == 1) for name in names)


def _check_named(name: str | None, contenders: Sequence[Contender]) -> None:
    if name is not None and name not in [contender.name for contender in contenders]:
        known = ", ".join(contender.name for contender in contenders)
        raise ConfigError(f"no contender is named {name!r}, to which ratios were to be formed; there are {known}")


def _write_baseline_files(
    contenders: Sequence[Contender], folder: Path, checkpoint: str | Path | None, seed: int
) -> dict[str, str]:
    """Write what baselines open; name of each whose file could not be written -> why."""
    baselines = [contender for contender in contenders if contender.baseline is not None]
    if not baselines:
        return {}
    try:
        from rest_deploy.benchmarking.baselines.files import write_files
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or "torch", "make the files of baselines", "export") from exc
    weights = Path(checkpoint) if checkpoint is not None else None
    errors: dict[str, str] = {}
    for place in dict.fromkeys(Path(one.file).parent for one in baselines):
        place.mkdir()
        own = [one for one in baselines if Path(one.file).parent == place]
        why = write_files(own, place, weights, seed)
        errors |= {one.name: why[Path(one.file).name] for one in own if Path(one.file).name in why}
    return errors


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for the files of baselines, and for what torch.compile keeps: its first start must be a first one."""
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
