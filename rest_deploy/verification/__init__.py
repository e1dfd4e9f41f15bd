"""Measuring artifacts against the model they were made from, and judging the figures."""

from rest_deploy.recipes import Limits
from rest_deploy.verification.images import Images
from rest_deploy.verification.opened import WeightsChoice, candidate_of, open_candidate
from rest_deploy.verification.reference import (
    CASES,
    Case,
    Comparison,
    Pictures,
    Reference,
    Run,
    cases_of,
    cases_within,
    pictures_of,
    synthetic_images,
)
from rest_deploy.verification.result import ArtifactResult, Verification
from rest_deploy.verification.run import verify

__all__ = [
    "CASES",
    "ArtifactResult",
    "Case",
    "Comparison",
    "Images",
    "Limits",
    "Pictures",
    "Reference",
    "Run",
    "Verification",
    "WeightsChoice",
    "candidate_of",
    "cases_of",
    "cases_within",
    "open_candidate",
    "pictures_of",
    "synthetic_images",
    "verify",
]
