"""An ONNX file of a narrowed network while it is being made: written by plan, judged as it lies on disk, stamped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.onnx_file import write_record
from rest_deploy.errors import VerificationError
from rest_deploy.pipeline.judge import Verdict
from rest_deploy.pipeline.narrowing import Narrowing
from rest_deploy.pipeline.speed import Speed
from rest_deploy.verification import open_candidate

_log = logging.getLogger(__name__)


class NarrowedFile:
    """The file.

    Args:
        path: Where it is written.
        info: Its record, as far as it is known before.
        narrowing: Makes its graphs and judges them.
    """

    def __init__(self, path: Path, info: ArtifactInfo, narrowing: Narrowing) -> None:
        self.info = info
        self._path, self._narrowing = path, narrowing
        self._plan = narrowing.plan
        self._steps: tuple[str, ...] = ()

    def write_within_budget(self, *, verify: bool) -> Verdict | None:
        """Write the graph with everything narrowed; where that is over the budget, with the worst parts kept wider.

        Args:
            verify: Whether to judge it at all.

        Returns:
            The verdict on the file, which passed; None where it was not judged.

        Raises:
            VerificationError: No plan holds the budget.
        """
        narrowing = self._narrowing
        self._write()
        if not verify:
            if narrowing.wants_sensitivities:
                narrowing.sensitivities()
            return None
        verdict = self._judged()
        if not verdict.passed:
            found = narrowing.search(verdict)
            self._plan, self._steps = found.plan, found.steps
            self._write()
            verdict = self._judged()
        elif narrowing.wants_sensitivities:
            narrowing.sensitivities()
        if not verdict.passed:
            raise VerificationError(f"{self._path.name} (not kept): {'; '.join(verdict.failures)}")
        return verdict

    def stamp(
        self, verdict: Verdict | None, speed: Speed | None, test_vector: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        """Write the figures into the file; its record."""
        comparison = verdict.comparison if verdict is not None else None
        self.info = replace(
            self.info,
            precision_plan=self._narrowing.record(self._plan, verdict, self._steps, speed),
            verification=comparison.to_dict() if comparison is not None else None,
            test_vector=test_vector,
        )
        write_record(self._path, self.info)
        return self.info

    def _write(self) -> None:
        import onnx

        graph = self._narrowing.make(self._plan)
        del graph.metadata_props[:]  # the record and the seal of the FP32 file
        onnx.save(graph, str(self._path))
        extra = {**self.info.extra, "nodes": len(graph.graph.node)}
        self.info = replace(self.info, extra=extra)
        self.stamp(None, None)

    def _judged(self) -> Verdict:
        with open_candidate(self._path) as (run, _):
            return self._narrowing.judge(run)
