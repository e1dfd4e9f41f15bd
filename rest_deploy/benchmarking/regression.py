"""A run against an earlier one: what is slower beyond noise and beyond a change of the machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

import numpy as np

from rest_deploy.errors import ConfigError
from rest_deploy.specs import Device
from rest_deploy.values import Many, Real, check

#: Runs on different days differ by more than contenders of one run; a smaller change does not count.
LEAST_CHANGE = 0.05
_RESAMPLES = 2000
#: Entries of the environment that must be equal for times to be comparable.
_ALIKE = ("cpu", "physical_cores", "affinity")
_Milliseconds = Annotated[float, Real(0, over=True)]
_Rounds = tuple[Annotated[tuple[_Milliseconds, ...], Many(1)], ...]


class Change(str, Enum):
    """Verdict on a contender in a case."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SAME = "no difference beyond noise"


@dataclass(frozen=True)
class Row:
    """One contender in one case, in both runs.

    Args:
        contender, case: Names.
        old_ms, new_ms: Median times of a call.
        ratio: New over old, divided by ``machine_ratio``; over 1 is slower.
        low, high: Its bootstrap interval, over the rounds of both runs.
        machine_ratio: New over old time of a fixed matrix product; 1 if unknown.
        verdict: The verdict.
    """

    contender: str
    case: str
    old_ms: float
    new_ms: float
    ratio: float
    low: float
    high: float
    machine_ratio: float
    verdict: Change

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True)
class Regressions:
    """The comparison of two runs.

    Args:
        old: Name of the earlier record.
        rows: Contenders and cases that both runs have.
        notes: What makes the runs less comparable, in words.
    """

    old: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def found(self) -> list[Row]:
        """The rows that became slower."""
        return [row for row in self.rows if row.verdict is Change.REGRESSION]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"with": self.old, "rows": [row.to_dict() for row in self.rows], "notes": list(self.notes)}


def compare_runs(new: Mapping[str, Any], old: Mapping[str, Any], name: str, confidence: float) -> Regressions:
    """Compare two records of ``rest-bench``.

    The runs did not take turns, so the machine may have had another speed. For contenders on the CPU, the time of a
    fixed matrix product, which both runs measured in every round, is divided out. Only more than 5% counts as a change.

    Args:
        new, old: The records.
        name: Of the earlier record.
        confidence: Of the intervals.

    Raises:
        ConfigError: They have no contender and case in common, or come from different machines.
    """
    check_comparable(new["environment"], old, name)
    devices = {contender["name"]: contender["device"] for contender in new["contenders"]}
    before = {key: (result, case) for key, result, case in _results(old)}
    rows = []
    for key, result, case in _results(new):
        if key in before:
            then, then_case = before[key]
            machine = _machine_ratio(case, then_case) if Device.parse(devices[key[0]]).in_memory else 1.0
            rows.append(_row(key, result, then, machine, confidence))
    if not rows:
        raise ConfigError(f"{name}: it shares no contender and size with this run; give a record with the same names")
    return Regressions(name, tuple(rows), tuple(_notes(new, old)))


def check_comparable(environment: Mapping[str, Any], old: Mapping[str, Any], name: str) -> None:
    """Refuse a record of another command or another machine, or with times that are none.

    Raises:
        ConfigError: Says what differs, or what a time is.
    """
    if old.get("kind") != "rest-bench":
        raise ConfigError(f"{name}: the kind of the record is {old.get('kind')}; accepted: rest-bench")
    then = old.get("environment") or {}
    gpus = [[gpu.get("name") for gpu in found.get("gpus") or ()] for found in (then, environment)]
    differing = {key: (then.get(key), environment.get(key)) for key in _ALIKE if then.get(key) != environment.get(key)}
    if gpus[0] != gpus[1]:
        differing["gpus"] = (", ".join(map(str, gpus[0])), ", ".join(map(str, gpus[1])))
    if differing:
        told = "; ".join(f"{key} {before} then, {now} now" for key, (before, now) in differing.items())
        raise ConfigError(f"{name}: made on another machine, so its times cannot be compared ({told})")
    for (contender, size), result, case in _results(old):
        try:
            check(_Rounds, result["rounds_ms"], "rounds_ms")
            check(_Milliseconds | None, _probe_ms(case), "probe_ms")
        except ConfigError as exc:
            raise ConfigError(f"{name}: {contender} at {size}: {exc}; measure it again") from exc


def _results(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, Any], Mapping[str, Any]]]:
    """(contender, case), its result, and the case, for all that were measured."""
    for case in record["cases"]:
        size = f"{case['batch']}x{case['height']}x{case['width']}"
        for result in case["results"]:
            if result.get("rounds_ms") and result.get("p50_ms"):
                yield (result["contender"], size), result, case


def _row(
    key: tuple[str, str], new: Mapping[str, Any], old: Mapping[str, Any], machine: float, confidence: float
) -> Row:
    now, then = (_round_medians(result["rounds_ms"]) for result in (new, old))
    ratio = float(np.median(now) / np.median(then)) / machine
    low, high = (bound / machine for bound in _interval(now, then, confidence))
    verdict = Change.SAME
    if low > 1 + LEAST_CHANGE:
        verdict = Change.REGRESSION
    elif high < 1 / (1 + LEAST_CHANGE):
        verdict = Change.IMPROVEMENT
    return Row(*key, old["p50_ms"], new["p50_ms"], ratio, low, high, machine, verdict)


def _round_medians(rounds: Sequence[Sequence[float]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([statistics.median(calls) for calls in rounds])


def _interval(now: Any, then: Any, confidence: float) -> tuple[float, float]:
    """Percentile bootstrap of the ratio of medians, over rounds (B. Efron, Bootstrap Methods, 1979)."""
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(values, (_RESAMPLES, len(values))), axis=1) for values in (now, then)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return float(low), float(high)


def _machine_ratio(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    now, then = _probe_ms(new), _probe_ms(old)
    return now / then if now and then else 1.0


def _probe_ms(case: Mapping[str, Any]) -> Any:
    return (case.get("conditions") or {}).get("probe_ms")


def _notes(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    packages = [(record.get("environment") or {}).get("packages") or {} for record in (old, new)]
    for name in sorted(set(packages[0]) | set(packages[1])):
        before, now = (versions.get(name, "not installed") for versions in packages)
        if before != now:
            yield f"{name} was {before}, is {now}"
    for key in ("threads", "device", "min_rounds", "min_seconds"):
        before, now = ((record.get("settings") or {}).get(key) for record in (old, new))
        if before != now:
            yield f"{key} was {before}, is {now}"
