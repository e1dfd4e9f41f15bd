"""What was found: packages, execution providers, GPUs, and what can be done with each kind of artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from rest_deploy.nvidia.gpus import Gpu

_MIB = 2**20


class State(str, Enum):
    """How it stands with a package."""

    WORKS = "works"
    OLD = "too old"
    BROKEN = "broken"
    MISSING = "not installed"


class Possible(str, Enum):
    """Whether something can be done here."""

    YES = "yes"
    NO = "no"
    NEVER = "never"  # on no machine
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Package:
    """A package.

    Args:
        name: Distribution that is installed, several where they bring the same module; else that would bring it.
        module: What is imported.
        version: None where it is not installed, or does not say.
        state: As importing it showed.
        note: What is wrong and the step that rights it; may be there for one that works.
        conflict: Whether distributions are installed that overwrite each other's files.
    """

    name: str
    module: str
    version: str | None
    state: State
    note: str = ""
    conflict: bool = False


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Args:
        name: As ONNX Runtime calls it.
        device: As rest_deploy calls it.
        problem: Why a network does not run on it, and the step that is missing; empty where one does.
    """

    name: str
    device: str
    problem: str = ""


@dataclass(frozen=True)
class Gpus:
    """The NVIDIA GPUs.

    Args:
        found: By CUDA.
        problem: Why CUDA finds none.
        absent: Whether it is known that there is none, or no driver.
        driver_cuda: CUDA of the driver, as ``"13.0"``; None where there is no driver, or it cannot be asked.
    """

    found: tuple[Gpu, ...] = ()
    problem: str = ""
    absent: bool = False
    driver_cuda: str | None = None


@dataclass(frozen=True)
class Integers:
    """Whether sums of 8-bit products saturate on this CPU; None where it could not be tried, and why."""

    saturate: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class Ability:
    """Whether something can be done with a kind of artifact.

    Args:
        possible: The answer.
        steps: What is missing, each with how to get it; or why it never can be.
        note: To be known beside.
    """

    possible: Possible
    steps: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def unless(cls, *missing: str, note: str = "") -> Ability:
        """Yes, unless something is missing; empty texts and repetitions are left out."""
        steps = tuple(dict.fromkeys(filter(None, missing)))
        return cls(Possible.NO if steps else Possible.YES, steps, note)


#: What is asked of each kind of artifact: to make it, to run it on the CPU, to run it on the first GPU.
EXPORT, CPU, CUDA = ABILITIES = ("export", "cpu", "cuda")


@dataclass(frozen=True)
class Artifact:
    """A kind of artifact.

    Args:
        key: What ``--require`` calls it.
        title: For people.
        abilities: By :data:`ABILITIES`.
    """

    key: str
    title: str
    abilities: Mapping[str, Ability]


@dataclass(frozen=True)
class Report:
    """All that was found.

    Args:
        environment: As :func:`rest_deploy.machine.environment.describe_environment` gives it.
        executable: The Python that looked.
        packages, providers, gpus, integers, artifacts: What was found.
        artifacts_problem: Why there are no artifacts to tell of: not even the registries load.
    """

    environment: Mapping[str, Any]
    executable: str
    packages: tuple[Package, ...]
    providers: tuple[Provider, ...]
    gpus: Gpus
    integers: Integers
    artifacts: tuple[Artifact, ...]
    artifacts_problem: str = ""

    @property
    def has_gpu(self) -> bool:
        """Whether CUDA or nvidia-smi finds a GPU."""
        return bool(self.gpus.found or self.environment["gpus"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        gpus = {
            "found": [
                {
                    "index": gpu.index,
                    "name": gpu.name,
                    "compute_capability": str(gpu.compute_capability),
                    "memory_mib": gpu.memory_bytes // _MIB,
                }
                for gpu in self.gpus.found
            ],
            "problem": self.gpus.problem,
            "driver_cuda": self.gpus.driver_cuda,
        }
        return {
            "kind": "rest-doctor",
            "schema": 1,
            "environment": dict(self.environment),
            "executable": self.executable,
            "packages": [{**asdict(package), "state": package.state.value} for package in self.packages],
            "providers": [asdict(provider) for provider in self.providers],
            "gpus": gpus,
            "integers": asdict(self.integers),
            "artifacts": [_artifact(artifact) for artifact in self.artifacts],
            "artifacts_problem": self.artifacts_problem,
        }


def _artifact(artifact: Artifact) -> dict[str, Any]:
    abilities = {
        name: {"possible": ability.possible.value, "steps": list(ability.steps), "note": ability.note}
        for name, ability in artifact.abilities.items()
    }
    return {"key": artifact.key, "title": artifact.title, **abilities}
