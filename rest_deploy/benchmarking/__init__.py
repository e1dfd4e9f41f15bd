"""Times artifacts and baselines in turns, and says which differences are beyond noise."""

from rest_deploy.benchmarking.measure import Effort
from rest_deploy.benchmarking.regression import Regressions, compare_runs
from rest_deploy.benchmarking.results import BenchmarkReport, CaseResult, Result
from rest_deploy.benchmarking.run import DEFAULT_SIZE, benchmark

__all__ = [
    "DEFAULT_SIZE",
    "BenchmarkReport",
    "CaseResult",
    "Effort",
    "Regressions",
    "Result",
    "benchmark",
    "compare_runs",
]
