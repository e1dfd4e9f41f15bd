"""What rest-deploy's own metadata asks for, and the pip lines that get it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from rest_deploy.errors import install
from rest_deploy.machine.packages import installed_version

_REQUIREMENT = re.compile(r'([\w.-]+)\s*>=\s*([\d.]+)(?:\s*;\s*extra\s*==\s*["\']([\w.-]+)["\'])?')


@functools.cache
def requirements() -> tuple[tuple[str, str, str], ...]:
    """Distribution, least version, and extra (empty for what is always needed), in the order of pyproject.toml.

    Empty where rest-deploy runs from a folder in which it was not installed.
    """
    import importlib.metadata  # slow to load

    try:
        lines = importlib.metadata.requires("rest-deploy") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    matches = (_REQUIREMENT.fullmatch(line.strip()) for line in lines)
    return tuple((match[1].lower(), match[2], match[3] or "") for match in matches if match)


def least_version(distribution: str) -> str | None:
    """The lowest version that will do for any use; None where none is asked for."""
    asked = [version for name, version, _ in requirements() if name == distribution.lower()]
    return min(asked, key=_numbers, default=None)


def is_older(version: str, least: str) -> bool:
    """Whether a version comes before another, by their numbers: 2.9.0a0+git counts as 2.9.0."""
    pair = [_numbers(text) for text in (version, least)]
    length = max(map(len, pair))
    found, asked = ((*numbers, *(0,) * (length - len(numbers))) for numbers in pair)
    return found < asked


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def not_installed(packages: Sequence[str], extras: Iterable[str]) -> str:
    """That packages are missing, with the pip line that gets them; empty where there are none."""
    if not packages:
        return ""
    return f"{' and '.join(packages)} {'is' if len(packages) == 1 else 'are'} not installed; {install(*extras)}"


def repair(problem: str, packages: Sequence[str], extra: str = "") -> str:
    """A problem of a package that is installed, with the pip line that rights it, where it does not have one.

    Args:
        problem: In words.
        packages: Distributions to install again.
        extra: Whose other distributions are installed where one of them is missing.
    """
    if "pip " in problem:
        return problem
    others = [name for name, _, of in requirements() if of == extra and extra]
    if any(installed_version(name) is None for name in others):
        return f"{problem}; {install(extra)}"
    return f"{problem}; pip install --force-reinstall {' '.join(packages)}"
