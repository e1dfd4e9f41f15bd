"""What is installed on this machine, and what could be exported and run on it."""

from rest_deploy.doctor.artifacts import Demand, examine
from rest_deploy.doctor.records import Report

__all__ = ["Demand", "Report", "examine"]
