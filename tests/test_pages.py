"""What the pages name is there: files, tests, modules that are run, targets of make, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A path of ours in code, and the test in it.
_ROOTS = "rest_deploy|tests|benchmarks|examples|docs"
_PATH = re.compile(
    rf"`((?:{_ROOTS})/[\w./-]+|(?:\w[\w.-]*/)*\w[\w.-]*(?:\.py|\.j2|\.css|/))(?:::(\w+)(?:\[[^`]*\])?)?`"
)
_MODULE = re.compile(r"python -m ((?:benchmarks|examples|tests|rest_deploy)(?:\.\w+)*)")
_TARGET = re.compile(r"(?:`|    )make (\w[\w-]*)")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
#: Of the format that CONTRIBUTING.md adds, and files of the reader's own.
_NOT_OURS = frozenset({"rest_deploy/export/toy_format.py"})


def missing(text: str, folder: Path) -> Iterator[str]:
    """What a page in a folder names and is not there."""
    files = {own for part in _ROOTS.split("|") for own in _names(part)}
    for name, test in _PATH.findall(text):
        if name in _NOT_OURS:
            continue
        places = [base / name for base in (ROOT, ROOT / "rest_deploy", ROOT / "tests")]
        found = next((place for place in places if place.exists()), None)
        if found is None and name not in files:
            yield name
        if test and (found is None or test not in _functions(found)):
            yield f"{name}::{test}"
    for module in _MODULE.findall(text):
        path = ROOT / module.replace(".", "/")
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            yield module
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    yield from (f"make {target}" for target in _TARGET.findall(text) if target not in targets)
    yield from (link for link in _LINK.findall(text) if not (folder / link).exists())


def _names(part: str) -> Iterator[str]:
    """Names of files, and of folders with a slash."""
    return (path.name if path.is_file() else f"{path.name}/" for path in (ROOT / part).rglob("*"))


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert list(missing(text, page.parent)) == []
    assert _PATH.search(text) or _MODULE.search(text) or _TARGET.search(text) or _LINK.search(text)


def test_what_is_not_there_is_found() -> None:
    text = """`models/familly.py`, `tests/test_pages.py::test_nothing`, `recipe.py`, `rest_deploy/nowhere/`
    [x](docs/y.md)
    python -m benchmarks.nothing
    make coffee
    `models/family.py`, `tests/test_pages.py::missing`, `recipes.py`, `rest_deploy/models/`, [x](docs/tour.md#a)
    """
    assert list(missing(text, ROOT)) == [
        "models/familly.py", "tests/test_pages.py::test_nothing", "recipe.py", "rest_deploy/nowhere/",
        "benchmarks.nothing", "make coffee", "docs/y.md",
    ]  # fmt: skip
