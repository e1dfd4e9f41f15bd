"""Every error that rest_deploy raises on purpose.

    RestDeployError
    ├── ConfigError            a model, size, precision or option that is not accepted
    ├── CheckpointError        a checkpoint that cannot be read, or does not fit its model
    ├── ExportError            an artifact could not be made
    │   └── VerificationError  it was made but disagrees with its reference, and was not kept
    ├── ArtifactError          a file that is not an artifact of rest_deploy, or is damaged
    ├── DeviceError            a device or provider that is not available
    ├── MissingPackageError    an optional package is not installed
    ├── PredictorError         an open predictor cannot answer: closed, forked, out of memory, its runtime failed
    ├── InputError             an array with the wrong dtype, rank or size
    └── ImageError             an image that cannot be read or used

Errors of other libraries are mapped where they enter, with ``raise ... from``. Each message says what was got,
what is accepted and what to do next. The commands print it as one line and exit with 1.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

_LISTED = 10  # names in a message
_NAME = 100  # characters of a name
_LINE = 300  # characters of a foreign error
#: Errors of looking at a path at which nothing is, or nothing can be.
_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class RestDeployError(Exception):
    """Base of all errors that rest_deploy raises on purpose."""


class ConfigError(RestDeployError, ValueError):
    """A model, size, precision or option that is not accepted."""


class CheckpointError(RestDeployError):
    """A checkpoint that cannot be read, or does not fit its model."""


class ExportError(RestDeployError):
    """An artifact could not be made."""


class VerificationError(ExportError):
    """An artifact was made but disagrees with its reference, and was not kept."""


class ArtifactError(RestDeployError):
    """A file that is not an artifact of rest_deploy, or is damaged."""


class DeviceError(RestDeployError):
    """A device or execution provider that is not available."""


class MissingPackageError(RestDeployError, ImportError):
    """An optional package is not installed.

    Args:
        package: Name of the missing distribution, for example ``"onnxruntime"``.
        purpose: What it is needed for, as it reads after "is needed to".
        extra: The extra of rest-deploy that installs it.
    """

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(f"{package} is needed to {purpose}; install it: {install(extra)}")
        self.package = package
        self.extra = extra


class PredictorError(RestDeployError):
    """An open predictor cannot answer any input: it is closed, forked or out of memory, or its runtime failed."""


class InputError(RestDeployError, ValueError):
    """An array with the wrong dtype, rank or size."""


class ImageError(RestDeployError):
    """An image that cannot be read or used."""


def install(*extras: str) -> str:
    """The pip line that installs extras of rest-deploy, from the same place as rest-deploy itself."""
    return origin().replace("{}", ",".join(dict.fromkeys(extras)))


def origin() -> str:
    """A pip line with ``{}`` for extras: its clone, else the source of its installation, else its name."""
    clone = Path(__file__).parent.parent
    if (clone / "pyproject.toml").is_file():
        return f'pip install -e "{clone}[{{}}]"'
    import importlib.metadata  # slow to load
    import json
    from urllib.parse import unquote, urlparse

    try:  # PEP 610
        text = importlib.metadata.distribution("rest-deploy").read_text("direct_url.json") or "{}"
    except importlib.metadata.PackageNotFoundError:
        text = "{}"
    source = json.loads(text)
    url = str(source.get("url", ""))
    if "vcs_info" in source:
        return f'pip install "rest-deploy[{{}}] @ {source["vcs_info"]["vcs"]}+{url}"'
    folder = unquote(urlparse(url).path) if url.startswith("file:") else ""
    return f'pip install "{folder if os.path.isdir(folder) else "rest-deploy"}[{{}}]"'


def one_line(exc: BaseException) -> str:
    """The text of another library's error, as one line of at most 300 characters and " ..."; else its type."""
    words = " ".join(str(exc).split())
    return (words if len(words) <= _LINE else words[:_LINE] + " ...") or type(exc).__name__


def listed(names: Sequence[str]) -> str:
    """The first ten of some names for a message, each cut at a hundred characters."""
    return ", ".join(name[:_NAME] for name in names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def counted(number: int, thing: str) -> str:
    """A number of things whose plural ends in s, or in es after an s."""
    return f"{number:,} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"


def no_file(path: str | os.PathLike[str], kind: str = "file", step: str = "; give the file in it") -> str:
    """Why a path is not a file that can be read, for a message; of a folder with the next step."""
    if os.path.isdir(path):
        return f"a folder, not a file{step}"
    if os.path.exists(path):
        return "a pipe or a device, not a file"
    return unseen(path) or f"no such {kind}"


def no_folder(path: str | os.PathLike[str]) -> str:
    """Why a path is not a folder, for a message."""
    return "a file, not a folder" if os.path.exists(path) else unseen(path) or "no such folder"


def unseen(path: str | os.PathLike[str]) -> str:
    """Why a path cannot be looked at, for a message; empty where it can, and where nothing is or can be."""
    try:
        os.stat(path)
    except ValueError:  # a null character
        return ""
    except OSError as exc:
        return "" if exc.errno in _NOTHING else f"it cannot be looked at: {exc.strerror}"
    return ""
