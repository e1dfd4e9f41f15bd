"""Versions of installed packages, told without importing them."""

from __future__ import annotations


def installed_version(distribution: str) -> str | None:
    """Version of a distribution; None where it is not installed, or what is left of it tells no version."""
    import importlib.metadata  # slow to load, and every command would wait for it

    try:
        version: object = importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, KeyError, TypeError, OSError):
        return None  # TypeError and KeyError: a dist-info folder without its METADATA, by version of Python
    return version if isinstance(version, str) else None
