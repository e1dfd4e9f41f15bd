"""What was found: packages, execution providers, GPUs, and what can be done with each kind of artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from rest_deploy.nvidia import Gpu

_MIB = 2**20


class State(str, Enum):
    """The state of a package."""

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
    """A package, as importing it showed."""

    name: str  # distribution that is installed, several where they bring the same module; else that would bring it
    module: str  # what is imported
    version: str | None  # None where it is not installed, or does not say
    state: State
    note: str = ""  # what is wrong and the step that repairs it; one that works may have a note too
    conflict: bool = False  # whether distributions are installed that overwrite each other's files


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    name: str  # ONNX Runtime's
    device: str  # rest_deploy's
    problem: str = ""  # why a network does not run on it, and the step that is missing; empty where one does


@dataclass(frozen=True)
class Gpus:
    """The NVIDIA GPUs, as CUDA finds them."""

    found: tuple[Gpu, ...] = ()
    problem: str = ""  # why CUDA finds none, or cannot say what one is
    absent: bool = False  # whether it is certain that there is no GPU, or no driver
    driver_cuda: str | None = None  # CUDA of the driver, as "13.0"; None without a driver, or where it cannot be asked


@dataclass(frozen=True)
class Integers:
    """Whether sums of 8-bit products saturate on this CPU; None where that could not be tried, and why."""

    saturate: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class Ability:
    """Whether something can be done with a kind of artifact."""

    possible: Possible
    steps: tuple[str, ...] = ()  # what is missing, each with how to get it; or why it never can be done
    note: str = ""

    @classmethod
    def unless(cls, *missing: str, note: str = "") -> Ability:
        """Yes, unless something is missing; empty texts and repetitions are left out."""
        steps = tuple(dict.fromkeys(filter(None, missing)))
        return cls(Possible.NO if steps else Possible.YES, steps, note)

    @classmethod
    def never(cls, why: str) -> Ability:
        """What no machine can do."""
        return cls(Possible.NEVER, (why,))


#: What can be done with an artifact: make it, run it on the CPU, run it on the first GPU.
EXPORT, CPU, CUDA = ABILITIES = ("export", "cpu", "cuda")


@dataclass(frozen=True)
class Artifact:
    """A kind of artifact."""

    key: str  # its name for --require
    title: str  # its name for people
    abilities: Mapping[str, Ability]  # by ABILITIES


@dataclass(frozen=True)
class Report:
    """All that was found."""

    environment: Mapping[str, Any]  # rest_deploy.environment.describe_environment's
    executable: str  # the Python that looked
    packages: tuple[Package, ...]
    providers: tuple[Provider, ...]
    gpus: Gpus
    integers: Integers
    artifacts: tuple[Artifact, ...]
    artifacts_problem: str = ""  # why there are no artifacts: not even the registries load

    @property
    def has_gpu(self) -> bool:
        """Whether CUDA or NVML finds a GPU."""
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
