"""A run that is going on: first starts, then every case, filling a report that is whole at every moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.cold import measure_cold
from rest_deploy.benchmarking.conditions import Conditions, per_round
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.benchmarking.machine_rate import measure_rate, pulse
from rest_deploy.benchmarking.measure import Call, CaseTimes, Effort, time_case, warm_up
from rest_deploy.benchmarking.results import BenchmarkReport, CaseResult, Result
from rest_deploy.benchmarking.sessions import Session
from rest_deploy.benchmarking.statistics import Ratio, paired_ratio
from rest_deploy.environment import CpuTimes, between
from rest_deploy.errors import RestDeployError, one_line
from rest_deploy.models.config import ResTConfig
from rest_deploy.models.flops import count_flops
from rest_deploy.runtimes.gpu_times import gpu_medians
from rest_deploy.timing import until_idle

#: Called with the share of the run that is done, 0 to 1, and what it is at.
Progress = Callable[[float, str], None]

_GPU_CALLS = 20
_COLD_SHARE = 0.2  # of the progress


@dataclass(frozen=True)
class Plan:
    """How a run measures.

    Args:
        cases: Batches and sizes.
        effort: How long.
        confidence: Of the intervals.
        threads: CPU threads of a call.
        relative_to: Contender that all ratios are formed to; None for the first of each network.
        seed: Of the images.
    """

    cases: Sequence[InputSize]
    effort: Effort
    confidence: float
    threads: int
    relative_to: str | None
    seed: int


class Turns:
    """Contenders being measured.

    Args:
        made: The report to fill.
        plan: How.
        report: Called as it goes on.
    """

    def __init__(self, made: BenchmarkReport, plan: Plan, report: Progress | None) -> None:
        self._made, self._plan = made, plan
        self._report = report or (lambda share, phase: None)
        self._sessions: dict[str, Session] = {}

    def start_cold(self) -> None:
        """Start each contender in a process of its own."""
        for number, contender in enumerate(self._made.contenders):
            if contender.name in self._made.errors:
                continue
            self._report(_COLD_SHARE * number / len(self._made.contenders), f"first start of {contender.name}")
            self._made.cold[contender.name] = measure_cold(contender, self._plan.cases)

    def measure(self) -> None:
        """Open all, and measure every case."""
        with ExitStack() as stack:
            self._open(stack)
            self._made.machine = measure_rate(self._plan.threads)
            product = pulse()
            for number, case in enumerate(self._plan.cases):
                share = _COLD_SHARE + (1 - _COLD_SHARE) * number / len(self._plan.cases)
                self._measure_case(case, product, partial(self._report, share))
                if self._made.interrupted:
                    break

    def _open(self, stack: ExitStack) -> None:
        for contender in self._made.contenders:
            if contender.name in self._made.errors:
                continue
            try:
                session = stack.enter_context(contender.open())
            except (RestDeployError, MemoryError) as exc:
                self._made.errors[contender.name] = one_line(exc)
                continue
            self._made.descriptions[contender.name] = session.description
            self._sessions[contender.name] = session

    def _measure_case(self, case: InputSize, product: Call, say: Callable[[str], None]) -> None:
        images, errors = self._images(case), {**self._made.errors, **self._killed(case)}
        calls = {
            name: partial(_named, name, partial(session.run, images[name]))
            for name, session in self._sessions.items()
            if name not in errors
        }
        warmups = self._warm_up(case, calls, errors, say)
        before = CpuTimes.now()
        warm: dict[str, Call] = {name: calls[name] for name in warmups}
        times = self._time(warm, warmups, errors, product, lambda done: say(f"{case}: {done} rounds"))
        conditions = Conditions(between(before, CpuTimes.now()), per_round(times.pulse))
        self._made.interrupted |= times.interrupted
        results = [self._result(c, case, times, errors.get(c.name)) for c in self._made.contenders]
        self._made.cases.append(CaseResult(case, tuple(results), conditions))
        if not times.interrupted:  # what is known so far is kept first
            results = [self._with_gpu(result, case, images) for result in results]
            self._made.cases[-1] = CaseResult(case, tuple(results), conditions)

    def _killed(self, case: InputSize) -> dict[str, str]:
        """Contenders whose own process was ended at a case or before it; here it would be the end of all of them."""
        return {
            name: f"{cold.error}, at its first start"
            for name, cold in self._made.cold.items()
            if cold.killed and str(case) not in cold.peak_mib
        }

    def _warm_up(
        self, case: InputSize, calls: Mapping[str, Call], errors: dict[str, str], say: Callable[[str], None]
    ) -> dict[str, list[float]]:
        """Warm every contender up; those that fail are among the errors."""
        warmups = {}
        for name, run in calls.items():
            say(f"{case}: warming up {name}")
            until_idle()
            try:
                warmups[name] = warm_up(run)
            except ContenderError as exc:
                errors[name] = one_line(exc)
        return warmups

    def _time(
        self,
        calls: dict[str, Call],
        warmups: Mapping[str, list[float]],
        errors: dict[str, str],
        product: Call,
        report: Callable[[int], None],
    ) -> CaseTimes:
        """Time all in turns; where one fails, all over again without it."""
        while calls:
            try:
                return time_case(calls, warmups, self._plan.effort, pulse=product, report=report)
            except ContenderError as exc:
                errors[exc.name] = one_line(exc)
                del calls[exc.name]
        return CaseTimes()

    def _images(self, case: InputSize) -> dict[str, NDArray[np.float32]]:
        """Contender -> its batch; those of one shape share one."""
        shapes = {contender.name: case.shape(contender.channels) for contender in self._made.contenders}
        rng = np.random.default_rng(self._plan.seed)
        made = {shape: rng.standard_normal(shape).astype(np.float32) for shape in dict.fromkeys(shapes.values())}
        return {name: made[shape] for name, shape in shapes.items()}

    def _result(self, contender: Contender, case: InputSize, times: CaseTimes, error: str | None) -> Result:
        rounds = times.rounds.get(contender.name, [])
        if error is not None or not rounds:
            return Result(contender.name, case.batch, error or "interrupted before its first round was done")
        result = Result(
            contender=contender.name,
            batch=case.batch,
            warmup=tuple(times.warmups[contender.name]),
            rounds=tuple(tuple(calls) for calls in rounds),
            flop=count_flops(ResTConfig.from_dict(contender.config), case.batch, case.size),
            ratio=self._ratio(contender, times),
        )
        rate = self._made.machine
        if rate is None or result.gflops is None or contender.where != "cpu":
            return result
        return replace(result, share=result.gflops / rate.gflops)

    def _ratio(self, contender: Contender, times: CaseTimes) -> Ratio | None:
        """To the first of its network and device that ran, or to the one that was asked for."""
        for other in self._made.contenders:
            alike = (other.network, other.where) == (contender.network, contender.where)
            wanted = alike if self._plan.relative_to is None else other.name == self._plan.relative_to
            if wanted and times.rounds.get(other.name):
                if other.name == contender.name:
                    return None
                rounds = times.rounds[contender.name], times.rounds[other.name]
                return paired_ratio(*rounds, other.name, self._plan.confidence)
        return None

    def _with_gpu(self, result: Result, case: InputSize, images: Mapping[str, NDArray[np.float32]]) -> Result:
        if result.error is not None:
            return result
        try:
            calls = self._sessions[result.contender].gpu_calls(images[result.contender], _GPU_CALLS)
        except RestDeployError as exc:
            self._made.notes.append(f"{result.contender} at {case}: where its time on the GPU goes: {one_line(exc)}")
            return result
        return replace(result, gpu=gpu_medians(calls)) if calls else result


class ContenderError(RestDeployError):
    """A contender failed in a call; ``name`` says which."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.name = name


def _named(name: str, run: Call) -> object:
    """Call a contender; what goes wrong has its name."""
    try:
        return run()
    except (RestDeployError, MemoryError) as exc:
        raise ContenderError(name, exc) from exc
