"""Checks that may fail in any way: what a broken package raises is not known beforehand, and is to be told."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rest_deploy.errors import MissingPackageError, RestDeployError, one_line

_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome(Generic[_T]):
    """What came of it.

    Args:
        value: What was given; None where it failed.
        problem: Why it failed, as one line; empty where it did not. The exception itself is not kept: it would keep
            its frames, and with them TensorRT's objects.
        missing: Whether it failed for a package that is not installed.
    """

    value: _T | None
    problem: str = ""
    missing: bool = False


def attempt(function: Callable[..., _T], *arguments: Any) -> Outcome[_T]:
    """Call a function and tell what came of it, whatever it raises; warnings are of no interest here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Outcome(function(*arguments))
    except RestDeployError as exc:
        return Outcome(None, one_line(exc), isinstance(exc, MissingPackageError))
    except Exception as exc:
        return Outcome(None, f"{type(exc).__name__}: {one_line(exc)}")


def load_module(name: str, purpose: str, extra: str) -> Any:
    """Import a module, whose loading is the test of its package.

    Args:
        name: Of the module.
        purpose: What it is for, as it reads after "is needed to".
        extra: Of rest-deploy, that installs it.

    Raises:
        MissingPackageError: It is not there; a mere folder of its name on the path is none.
        Exception: Whatever a broken package raises.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise  # it is there, and something that it needs is not
        raise MissingPackageError(name, purpose, extra) from exc
    if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
        raise MissingPackageError(name, purpose, extra)
    return module
