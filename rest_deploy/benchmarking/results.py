"""Results of a benchmark: every raw time, and the figures derived from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rest_deploy.artifact.profile import InputSize
from rest_deploy.benchmarking.cold import Cold
from rest_deploy.benchmarking.conditions import Conditions, MachineRate
from rest_deploy.benchmarking.contenders import Contender
from rest_deploy.benchmarking.regression import Regressions
from rest_deploy.benchmarking.statistics import Ratio, percentile

KIND, SCHEMA = "rest-bench", 1


@dataclass(frozen=True)
class Result:
    """One contender in one case.

    Args:
        contender: Its name.
        batch: Images of a call.
        error: Why there are no times; None if there are.
        warmup: Seconds of the calls before the rounds.
        rounds: Seconds of the calls of each round.
        flop: Floating-point operations of a call; 0 of a backbone that ends before the last stage.
        share: Its rate over the machine's rate of matrix products; None if unknown.
        ratio: To the contender with which it is compared; None for that contender itself.
        gpu: Medians of the parts of the time on a GPU, in milliseconds; None without a GPU.
    """

    contender: str
    batch: int
    error: str | None = None
    warmup: tuple[float, ...] = ()
    rounds: tuple[tuple[float, ...], ...] = ()
    flop: int = 0
    share: float | None = None
    ratio: Ratio | None = None
    gpu: Mapping[str, Any] | None = None

    @property
    def calls(self) -> list[float]:
        """Seconds of all timed calls."""
        return [seconds for calls in self.rounds for seconds in calls]

    def percentile_ms(self, share: float) -> float | None:
        """Percentile of the calls, in milliseconds; None with too few calls."""
        seconds = percentile(self.calls, share)
        return seconds * 1e3 if seconds is not None else None

    @property
    def images_per_second(self) -> float | None:
        """Images over the median time of a call."""
        return self.batch / statistics.median(self.calls) if self.calls else None

    @property
    def gflops(self) -> float | None:
        """10^9 floating-point operations per second, at the median time."""
        return self.flop / statistics.median(self.calls) / 1e9 if self.calls and self.flop else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, times in milliseconds."""
        return {
            "contender": self.contender,
            "error": self.error,
            "warmup_ms": [seconds * 1e3 for seconds in self.warmup],
            "rounds_ms": [[seconds * 1e3 for seconds in calls] for calls in self.rounds],
            "calls": len(self.calls),
            "p50_ms": self.percentile_ms(0.5),
            "p90_ms": self.percentile_ms(0.9),
            "p99_ms": self.percentile_ms(0.99),
            "mean_ms": statistics.fmean(self.calls) * 1e3 if self.calls else None,
            "images_per_second": self.images_per_second,
            "gflop": self.flop / 1e9,
            "gflops": self.gflops,
            "share_of_machine": self.share,
            "ratio": self.ratio.to_dict() if self.ratio is not None else None,
            "gpu": dict(self.gpu) if self.gpu is not None else None,
        }


@dataclass(frozen=True)
class CaseResult:
    """All contenders at one batch and size."""

    case: InputSize
    results: tuple[Result, ...]
    conditions: Conditions

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return max((len(result.rounds) for result in self.results), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        batch, height, width = self.case.sizes
        return {
            "batch": batch,
            "height": height,
            "width": width,
            "rounds": self.rounds,
            "conditions": self.conditions.to_dict(),
            "results": [result.to_dict() for result in self.results],
        }


@dataclass
class BenchmarkReport:
    """A run.

    Args:
        environment: The machine (``environment.py``).
        settings: How it was measured.
        contenders: What was measured.
        machine: The machine's rate of matrix products; None if not measured.
        cold: Contender -> its first start.
        errors: Contender -> why it could not be opened.
        descriptions: Contender -> what runs it.
        facts: Contender -> what a server says of it.
        cases: The figures.
        interrupted: Whether Ctrl-C ended it; the results are from before.
        comparison: With an earlier run; None if not requested.
        notes: What else could not be measured, in words.
    """

    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    contenders: tuple[Contender, ...]
    machine: MachineRate | None = None
    cold: dict[str, Cold] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    cases: list[CaseResult] = field(default_factory=list)
    interrupted: bool = False
    comparison: Regressions | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """What could not be measured, in words."""
        failures = [f"{name}: {error}" for name, error in self.errors.items()]
        failures += [
            f"{name}: first start: {cold.error}"
            for name, cold in self.cold.items()
            if cold.error and name not in self.errors
        ]
        return [*failures, *self.notes] + [
            f"{result.contender} at {case.case}: {result.error}"
            for case in self.cases
            for result in case.results
            if result.error is not None and result.contender not in self.errors
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "environment": dict(self.environment),
            "interrupted": self.interrupted,
            "settings": dict(self.settings),
            "machine": asdict(self.machine) if self.machine is not None else None,
            "contenders": [self._contender(contender) for contender in self.contenders],
            "cases": [case.to_dict() for case in self.cases],
            "comparison": self.comparison.to_dict() if self.comparison is not None else None,
        }

    def _contender(self, contender: Contender) -> dict[str, Any]:
        cold = self.cold.get(contender.name)
        return {
            **contender.to_dict(),
            **self.facts.get(contender.name, {}),
            "description": self.descriptions.get(contender.name, ""),
            "error": self.errors.get(contender.name),
            "cold": asdict(cold) if cold is not None else None,
        }
