"""A run against an earlier one: what has become slower, beyond noise and beyond what the machine itself changed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np

from rest_deploy.errors import ConfigError

#: Runs on different days differ by more than contenders of one run do; a change nearer to 1 than this is none.
LEAST_CHANGE = 0.05
_RESAMPLES = 2000
#: What must be alike for times to be comparable at all: where in an environment it stands.
_ALIKE = ("cpu", "physical_cores", "affinity")


class Change(str, Enum):
    """What a comparison says of a contender in a case."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SAME = "no difference beyond noise"


@dataclass(frozen=True)
class Row:
    """One contender in one case, now and then.

    Args:
        contender, case: Which.
        old_ms, new_ms: Median times of a call.
        ratio: New over old, after dividing by ``machine_ratio``; over 1 is slower.
        low, high: Bootstrap interval of it, over the rounds of either run.
        machine_ratio: How much longer the machine itself took for one matrix product than then; 1 where unknown.
        verdict: What that means.
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
    """All of them.

    Args:
        old: Name of the earlier record.
        rows: Contenders and cases that both runs have.
        notes: What makes the two less comparable, in words.
    """

    old: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def found(self) -> list[Row]:
        """Those that became slower."""
        return [row for row in self.rows if row.verdict is Change.REGRESSION]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"with": self.old, "rows": [row.to_dict() for row in self.rows], "notes": list(self.notes)}


def compare_runs(new: Mapping[str, Any], old: Mapping[str, Any], name: str, confidence: float) -> Regressions:
    """Compare two records of ``rest-bench``.

    The runs did not take turns, so what the machine did in either stands between them; of contenders on the CPU the
    pace of a fixed product of matrices, timed in every round of both, is divided out. A change is one only past 5%.

    Args:
        new, old: The records.
        name: Of the earlier one.
        confidence: Of the intervals.

    Raises:
        ConfigError: They have no contender and case in common, or were made on different processors.
    """
    check_comparable(new["environment"], old, name)
    devices = {contender["name"]: contender["device"] for contender in new["contenders"]}
    before = {key: (result, case) for key, result, case in _results(old)}
    rows = []
    for key, result, case in _results(new):
        if key in before:
            then, then_case = before[key]
            machine = _machine_ratio(case, then_case) if devices[key[0]] == "cpu" else 1.0
            rows.append(_row(key, result, then, machine, confidence))
    if not rows:
        raise ConfigError(f"{name}: it has no contender and size in common with this run, by their names")
    return Regressions(name, tuple(rows), tuple(_notes(new, old)))


def check_comparable(environment: Mapping[str, Any], old: Mapping[str, Any], name: str) -> None:
    """Refuse a record of another command or another machine.

    Raises:
        ConfigError: Says what differs.
    """
    if old.get("kind") != "rest-bench":
        raise ConfigError(f"{name}: a record of {old.get('kind')}; accepted: what rest-bench wrote")
    then = old.get("environment") or {}
    gpus = [[gpu.get("name") for gpu in found.get("gpus") or ()] for found in (then, environment)]
    differing = {key: (then.get(key), environment.get(key)) for key in _ALIKE if then.get(key) != environment.get(key)}
    if gpus[0] != gpus[1]:
        differing["gpus"] = (", ".join(map(str, gpus[0])), ", ".join(map(str, gpus[1])))
    if differing:
        told = "; ".join(f"{key} {before} then, {now} now" for key, (before, now) in differing.items())
        raise ConfigError(f"{name}: made on another machine, whose times say nothing of this one's ({told})")


def _results(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, Any], Mapping[str, Any]]]:
    """(contender, case), its result, and the case, of those that were measured."""
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
    """Percentile bootstrap of the ratio of medians (B. Efron, Bootstrap Methods, 1979), rounds being what is drawn."""
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(values, (_RESAMPLES, len(values))), axis=1) for values in (now, then)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return float(low), float(high)


def _machine_ratio(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    now, then = ((case.get("conditions") or {}).get("probe_ms") for case in (new, old))
    return now / then if now and then else 1.0


def _notes(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    packages = [(record.get("environment") or {}).get("packages") or {} for record in (old, new)]
    for name in sorted(set(packages[0]) | set(packages[1])):
        before, now = (versions.get(name, "not there") for versions in packages)
        if before != now:
            yield f"{name} was {before}, is {now}"
    for key in ("threads", "device", "min_rounds", "min_seconds"):
        before, now = ((record.get("settings") or {}).get(key) for record in (old, new))
        if before != now:
            yield f"{key} was {before}, is {now}"
