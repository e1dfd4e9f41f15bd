"""What the package depends on and what it may do, read off its own files: no network is needed for that."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = sorted((ROOT / "rest_deploy").rglob("*.py"))
#: What a toolkit that reads files and runs networks has no need of.
NETWORK = {
    "asyncio",
    "ftplib",
    "http",
    "httpx",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "telnetlib",
    "urllib",
    "urllib3",
}
RUNS_CODE = {"eval", "exec", "compile", "__import__"}


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()


def _bounds() -> dict[str, str]:
    """Package -> lower bound, of what runs and exports on a CPU."""
    text = _pyproject()
    rows = re.findall(r"^(?:dependencies|export|cpu) = \[(.*)\]$", text, re.MULTILINE)
    assert len(rows) == 3
    return dict(re.findall(r'"([a-z-]+)>=([0-9.]+)"', " ".join(rows)))


def test_the_oldest_versions_are_those_that_are_tested() -> None:
    text = (ROOT / "constraints-oldest.txt").read_text()
    pinned = dict(re.findall(r"^([a-z-]+)==([0-9.]+)$", text, re.MULTILINE))
    for package, bound in _bounds().items():
        if package != "torch":  # the file says why
            assert _parts(pinned[package]) == _parts(bound), package


def _parts(version: str) -> list[int]:
    numbers = [int(part) for part in version.split(".")]
    return [*numbers, 0, 0, 0][:3]


def test_the_page_on_security_tells_the_bounds_that_there_are() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    told = dict(re.findall(r"^\| ([a-z]+) \| ([0-9.]+) \|", text, re.MULTILINE))
    assert set(told) == {"torch", "onnx", "pillow"}
    for package, version in told.items():
        assert _parts(_bounds()[package]) == _parts(version), package


#: What reaches further: for its caller's event loop; to knock at the address of a cluster that was given; to that
#: of a server that was given; to a server that was started here.
ASKS = {
    "predictor.py": {"asyncio"},
    "on_ray.py": {"socket"},
    "kserve.py": {"http.client", "ssl", "urllib.parse"},
    "proof.py": {"http.client", "socket"},
}


def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reaches_for_the_network_or_runs_text_as_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        asks = ASKS.get(path.name, {"urllib.parse"})
        assert not {name.split(".")[0] for name in names if name not in asks} & NETWORK
    for call in _calls(path):
        if isinstance(call.func, ast.Name):
            assert call.func.id not in RUNS_CODE
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        shell = keywords.get("shell")
        assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False)
        if ast.unparse(call.func) in ("torch.load", "np.load", "numpy.load", "pickle.load", "pickle.loads"):
            safe = {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
            name, needed = safe.get(ast.unparse(call.func), ("weights_only", True))
            given = keywords.get(name)
            assert isinstance(given, ast.Constant)
            assert given.value is needed


def test_no_file_names_a_registry() -> None:
    named = re.compile(r"pypi\.org|pythonhosted|download\.pytorch\.org|index-url|find-links\s*=", re.IGNORECASE)
    for path in ROOT.rglob("*"):
        if path.suffix in (".py", ".md", ".toml", ".txt", "") and path.is_file() and not _is_made(path):
            text = path.read_text(errors="ignore")
            assert path == Path(__file__) or not named.search(text), path


def _is_made(path: Path) -> bool:
    return any(part.startswith(".") or part.endswith("_output") for part in path.relative_to(ROOT).parts)


def test_nothing_is_sent_and_no_id_is_kept(tiny_onnx: Path, tmp_path: Path) -> None:
    """ONNX Runtime from 1.29 on would; what it keeps an id in is looked for, as nothing can be sent from a test."""
    script = (
        "import sys, numpy, os, rest_deploy\n"
        f"rest_deploy.Predictor({str(tiny_onnx)!r}).logits(numpy.zeros((1, 3, 9, 9), 'f4'))\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    variables = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**variables, **homes}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "variable", "warned"),
    [
        ("1.32.0", None, True),
        ("1.29.0.dev1", None, True),
        ("", None, True),
        ("1.28.1", None, False),
        ("1.32.0", "0", False),
    ],
)
def test_onnxruntime_imported_first_is_warned_of(version: str, variable: str | None, warned: bool) -> None:
    """Once, in one line that can be filtered, and only of versions that report where nobody has said whether to."""
    variables = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if variable is not None:
        variables["ORT_DISABLE_TELEMETRY"] = variable
    script = (
        "import sys, types, warnings\n"
        "module = sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\n"
        f"module.__version__ = {version!r}\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    import rest_deploy, rest_deploy.errors\n"
        "print([(w.category.__name__, str(w.message), w.filename) for w in told])"
    )
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)
    told = ast.literal_eval(done.stdout)
    assert len(told) == warned
    for category, message, file in told:
        assert category == "RuntimeWarning"
        assert "ORT_DISABLE_TELEMETRY=1" in message
        assert file == "<string>"  # who imports it
    assert done.stderr == ""
