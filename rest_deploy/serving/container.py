"""The container image that a repository is for: as given, or by the TensorRT of its plans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rest_deploy.errors import ConfigError
from rest_deploy.serving.model import Model

IMAGES = "nvcr.io/nvidia/tritonserver"
#: TensorRT -> newest tag of an image with it, by the table "NVIDIA Triton Inference Server Container Versions" of
#: NVIDIA's release notes (docs.nvidia.com/deeplearning/triton-inference-server/release-notes), as of July 2026. A plan
#: runs in the build of TensorRT that made it, so all four numbers count. Left out are 24.12 and 25.01, on which sources
#: disagree.
TAGS = {
    "10.16.1.11": "26.05",
    "10.16.0.72": "26.03",
    "10.15.1.29": "26.02",
    "10.14.1.48": "26.01",
    "10.13.3.9": "25.10",
    "10.13.2.6": "25.08",
    "10.11.0.33": "25.06",
    "10.10.0.31": "25.05",
    "10.9.0.34": "25.04",
    "10.8.0.43": "25.02",
    "10.6.0.26": "24.11",
    "10.5.0.18": "24.10",
    "10.4.0.26": "24.09",
    "10.3.0.26": "24.08",
    "10.2.0.19": "24.07",
    "10.1.0.27": "24.06",
    "10.0.1.6": "24.05",
}
_TABLE = "NVIDIA's table of July 2026"


@dataclass(frozen=True)
class Container:
    """What a repository's server is to be.

    Args:
        needs: The TensorRT that it must have, in words; empty where it needs none.
        image: Its image; empty where the user must name one.
        assumed: Why it is this image, where nobody named it; else empty.
    """

    needs: str
    image: str
    assumed: str = ""


def container_of(models: Sequence[Model]) -> Container:
    """The container of a repository.

    Raises:
        ConfigError: Two plans need two, as an image has one TensorRT.
    """
    given, plans = models[0].config.container, [model for model in models if model.is_plan]
    if not plans:
        return Container("", given or "")
    version, strict = _tensorrt(plans)
    needs, row = (version, known(version)) if strict else (f"{version} or later", _newest(version))
    if given is not None or row is None:
        return Container(needs, given or "")
    image = f"{IMAGES}:{row[1]}-py3"
    why = (
        f"{image} is assumed: by {_TABLE} it has TensorRT {row[0]}, and the plan was built by {version}; it was not "
        "started here, and --container names another"
    )
    return Container(needs, image, why)


def known(version: str) -> tuple[str, str] | None:
    """The row of a TensorRT; None where there is none, or several, as there may be of one with three numbers."""
    found = re.fullmatch(r"(\d+\.\d+\.\d+(?:\.\d+)?)(?:\.post\d+)?", version)
    rows = [row for row in TAGS.items() if found and found[1] in (row[0], row[0].rpartition(".")[0])]
    return rows[0] if len(rows) == 1 else None


def _newest(version: str) -> tuple[str, str] | None:
    """The newest row for a plan that later versions run too, up to the next major one; None where it is of an older."""
    newest = next(iter(TAGS.items()))
    own, theirs = _numbers(version), _numbers(newest[0])
    return newest if own[:1] == theirs[:1] and own <= theirs else None


def _tensorrt(plans: Sequence[Model]) -> tuple[str, bool]:
    """The TensorRT of all plans, and whether a server's must be the same; else a later one will do."""
    records = [(plan, plan.info.engine) for plan in plans if plan.info.engine is not None]
    strict = [own for own in records if not own[1].version_compatible]
    decides, record = strict[0] if strict else max(records, key=lambda own: _numbers(own[1].version))
    for model, own in records:  # a version-compatible one runs on later versions too
        older = own.version_compatible and _numbers(own.version) <= _numbers(record.version)
        if _numbers(own.version) != _numbers(record.version) and not older:
            raise ConfigError(
                f"{decides.file} needs TensorRT {record.version}, and {model.file} {own.version}; an image has one: "
                "make a repository of each"
            )
    return record.version, bool(strict)


def _numbers(version: str) -> tuple[int, ...]:
    row = known(version)
    return tuple(map(int, re.findall(r"\d+", row[0] if row is not None else version.partition(".post")[0])))
