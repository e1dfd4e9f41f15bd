"""From a checkpoint to proved artifacts; the one place that knows the order of the steps."""

from rest_deploy.pipeline.prepare import Job, Prepared, prepare
from rest_deploy.pipeline.request import ExportRequest
from rest_deploy.pipeline.run import ExportResult, export, run_export, run_exports

__all__ = ["ExportRequest", "ExportResult", "Job", "Prepared", "export", "prepare", "run_export", "run_exports"]
