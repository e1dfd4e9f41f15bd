"""Measuring artifacts against the model they were made from, and judging the figures."""

from rest_deploy.verification.agreement import BUDGETS, Agreement, Budget, Pictures
from rest_deploy.verification.candidate import candidate_of, open_candidate
from rest_deploy.verification.cases import CASES, Case, cases_within, synthetic_images
from rest_deploy.verification.check import verify
from rest_deploy.verification.comparison import TOLERANCES, CaseFigures, Comparison, Tolerance, require
from rest_deploy.verification.image_check import Images
from rest_deploy.verification.limits import Limits
from rest_deploy.verification.reference import Reference, Run, measure
from rest_deploy.verification.result import ArtifactResult, Verification
from rest_deploy.verification.subjects import WeightsChoice

__all__ = [
    "BUDGETS",
    "CASES",
    "TOLERANCES",
    "Agreement",
    "ArtifactResult",
    "Budget",
    "Case",
    "CaseFigures",
    "Comparison",
    "Images",
    "Limits",
    "Pictures",
    "Reference",
    "Run",
    "Tolerance",
    "Verification",
    "WeightsChoice",
    "candidate_of",
    "cases_within",
    "measure",
    "open_candidate",
    "require",
    "synthetic_images",
    "verify",
]
