"""Measuring artifacts against the model they were made from, and judging the figures."""

from rest_deploy.verification.agreement import BUDGETS, Agreement, Budget, Pictures
from rest_deploy.verification.candidate import candidate_of, open_candidate
from rest_deploy.verification.cases import CASES, Case, cases_within, synthetic_images
from rest_deploy.verification.check import verify
from rest_deploy.verification.comparison import TOLERANCES, CaseFigures, Comparison, Tolerance, require
from rest_deploy.verification.reference import Reference, Run, measure

__all__ = [
    "BUDGETS",
    "CASES",
    "TOLERANCES",
    "Agreement",
    "Budget",
    "Case",
    "CaseFigures",
    "Comparison",
    "Pictures",
    "Reference",
    "Run",
    "Tolerance",
    "candidate_of",
    "cases_within",
    "measure",
    "open_candidate",
    "require",
    "synthetic_images",
    "verify",
]
