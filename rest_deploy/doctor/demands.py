"""What ``--require`` asks for: a kind of artifact that must be of use here."""

from __future__ import annotations

from dataclasses import dataclass

from rest_deploy.doctor.artifacts import artifact_keys
from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.records import ABILITIES, CPU, CUDA, EXPORT, Artifact, Possible, Report
from rest_deploy.errors import ConfigError

_VERBS = {EXPORT: "made", CPU: "run on cpu", CUDA: "run on cuda"}


@dataclass(frozen=True)
class Demand:
    """A kind of artifact, and what must be possible with it.

    Args:
        key: Of the artifact.
        ability: One of :data:`rest_deploy.doctor.records.ABILITIES`; None for running it on the CPU, or where that
            cannot be, on the GPU; on a machine without one, for building it.
    """

    key: str
    ability: str | None = None

    @classmethod
    def parse(cls, text: str) -> Demand:
        """Read ``"onnx"``, ``"onnx:cuda"`` or ``"trt-rtx:export"``.

        Raises:
            ConfigError: No such kind of artifact, or nothing that is asked of one.
        """
        key, colon, ability = text.partition(":")
        known = attempt(artifact_keys)
        if known.value is not None and key not in known.value:
            raise ConfigError(f"unknown artifact {key!r}; accepted: {', '.join(known.value)}")
        if colon and ability not in ABILITIES:
            raise ConfigError(f"{text!r}; accepted after {key}: {', '.join(f':{name}' for name in ABILITIES)}")
        return cls(key, ability or None)

    def __str__(self) -> str:
        return f"{self.key}:{self.ability}" if self.ability else self.key

    def unmet(self, report: Report) -> str:
        """What is missing, as one line; empty where nothing is."""
        artifact = next((artifact for artifact in report.artifacts if artifact.key == self.key), None)
        if artifact is None:
            return f"{self}: nothing can be told of artifacts here: {report.artifacts_problem}"
        name = self.ability or _default(artifact, report)
        ability = artifact.abilities[name]
        if ability.possible is Possible.YES:
            return ""
        return f"{self}: it cannot be {_VERBS[name]} here: {'; and '.join(ability.steps)}"


def _default(artifact: Artifact, report: Report) -> str:
    if artifact.abilities[CPU].possible is not Possible.NEVER:
        return CPU
    return CUDA if report.has_gpu else EXPORT
