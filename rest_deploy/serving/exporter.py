"""Format ``triton``: the proved ONNX file as a model repository, proved again by a server where one is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.export.formats import Exporter, FormatRequest, Made
from rest_deploy.export.onnx_format import OnnxExporter
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.model import check_servable, model_of, name_of
from rest_deploy.serving.proof import find_server
from rest_deploy.serving.repository import make_repository


def check(request: FormatRequest) -> Exporter:
    """The exporter, once the server that was named is there.

    Raises:
        ConfigError: It is not.
    """
    find_server(request.config.server)
    return TritonExporter(request)


@dataclass(frozen=True)
class TritonExporter(OnnxExporter):
    """Makes the ONNX file, and puts it in place as a repository of one model."""

    @property
    def _config(self) -> TritonConfig:
        config: TritonConfig = self.request.config
        return config

    def check(self, info: ArtifactInfo) -> None:
        """A server must run it."""
        check_servable(info, info.model, self._config)

    def files(self, output: Path) -> tuple[Path, ...]:
        """The folder, whose name is the model's unless another is given."""
        name_of(output, self._config)
        return (output,)

    def place(self, made: Made, output: Path) -> tuple[str, ...]:
        sealed = made.path.with_name(f"served-{made.path.name}")
        write_record(sealed, made.info, graph=made.path)
        model = model_of(sealed, made.info, self._config, name_of(made.path, self._config))
        return make_repository([model], output, verify=self.request.verify)
