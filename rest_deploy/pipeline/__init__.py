"""From a checkpoint to proved artifacts; the one place that knows the order of the steps."""

from rest_deploy.pipeline.jobs import Job, prepare
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.pipeline.result import ExportResult
from rest_deploy.pipeline.run import export, run_export, run_exports

__all__ = ["ExportRequest", "ExportResult", "Job", "export", "prepare", "run_export", "run_exports"]
