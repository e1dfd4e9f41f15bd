"""What rest-verify and rest-bench found, as one HTML file that needs nothing else."""

from rest_deploy.reporting.read import read_record
from rest_deploy.reporting.report import render, write_report

__all__ = ["read_record", "render", "write_report"]
