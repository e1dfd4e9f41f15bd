"""The structure of the package: which part imports which, what is public, what deploying does not load."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import rest_deploy
from tests.conftest import IMAGES, ROOT

PACKAGE = ROOT / "rest_deploy"

#: From the top down; a module imports only from layers below its own, or from its own part.
LAYERS = (
    {"cli"},
    {"pipeline", "doctor", "report"},
    {"serving"},
    {"verification", "benchmarking", "archives"},
    {"predictor"},
    {"environment"},
    {"export", "runtimes"},
    {"models"},
    {"nvidia"},
    {"artifact", "preprocess"},
    {"machine"},
    {"recipes"},
    {"specs", "timing"},
    {"values"},
    {"errors"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def _imports(path: Path) -> set[str]:
    """Parts of rest_deploy that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("rest_deploy.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return  # re-exports, lazily
    upward = {other for other in _imports(path) if other != part and RANK[other] <= RANK[part]}
    assert not upward, f"{path.name} is part of {part} and imports {upward}"


def test_every_part_has_its_layer() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "data"} == set(RANK)


def _at_import(path: Path) -> set[str]:
    """Modules of rest_deploy that a module imports as it is imported, those for types alone left out."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_no_circle_of_imports() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    left = {name: (_at_import(path) & set(modules)) - {name} for name, path in modules.items()}
    while free := [name for name, needed in left.items() if not needed & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {left}"


def test_no_module_only_hands_something_on() -> None:
    kinds = (ast.Import, ast.ImportFrom, ast.Expr, ast.If)
    for path in PACKAGE.rglob("*.py"):
        own = [node for node in ast.parse(path.read_text()).body if not isinstance(node, kinds)]
        assert own or path.name == "__init__.py", f"{path} defines nothing"


def test_public_names() -> None:
    assert rest_deploy.__all__ == [
        "Prediction",
        "Predictor",
        "Preprocessing",
        "ResTConfig",
        "ResTv2Config",
        "RestDeployError",
        "benchmark",
        "create_model",
        "export",
        "list_models",
        "save_checkpoint",
        "verify",
    ]
    assert all(getattr(rest_deploy, name) is not None for name in rest_deploy.__all__)
    assert rest_deploy.__version__ == importlib.metadata.version("rest-deploy")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rest_deploy.nonsense


def _python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)


def test_export_stays_the_function_whatever_is_imported_first() -> None:
    code = "import rest_deploy.export.formats, rest_deploy.pipeline; from rest_deploy import export, verify; "
    code += "import rest_deploy.verification; print(callable(export), callable(verify))"
    assert _python(code).stdout.split() == ["True", "True"]


HIDDEN = "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxscript', 'onnxsim', 'safetensors')));"


def test_deploying_needs_no_training_framework(tiny_onnx: Path) -> None:
    """``None`` in sys.modules makes an import fail as if the package were not there."""
    code = f"{HIDDEN} from rest_deploy.cli.predict import main; sys.exit(main(sys.argv[1:]))"
    done = _python(code, str(tiny_onnx), str(IMAGES), "--top-k", "1")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "chelsea.png" in done.stdout


@pytest.mark.parametrize("argv", [["--help"], ["--model", "rest_lite"], ["--model", "rest_lite", "--int8"]])
def test_rest_export_says_what_is_missing_without_torch(argv: list[str]) -> None:
    done = _python(f"{HIDDEN} from rest_deploy.cli.export import main; sys.exit(main(sys.argv[1:]))", *argv)
    assert done.returncode == (0 if argv == ["--help"] else 1)
    assert "Traceback" not in done.stderr
    assert argv == ["--help"] or f'pip install -e "{ROOT}[export]"' in done.stderr


def test_what_needs_torch_says_so_without_it() -> None:
    code = f"{HIDDEN} import rest_deploy\ntry: rest_deploy.create_model\nexcept ImportError as e: print(e)"
    assert _python(code).stdout.strip() == (
        f'torch is needed to use rest_deploy.create_model; install it: pip install -e "{ROOT}[export]"'
    )


def test_predicting_loads_nothing_heavy(tiny_onnx: Path) -> None:
    heavy = (
        "torch",
        "onnx",
        "onnxscript",
        "onnxsim",
        "scipy",
        "psutil",
        "pynvml",
        "rest_deploy.environment",
        "rest_deploy.nvidia",
        "jinja2",
        "matplotlib",
        "rich",
        "rest_deploy.archives",
        "sqlite3",
        "tarfile",
        "pyarrow",
        "ray",
    )
    code = "import sys; from rest_deploy.cli.predict import main; main(sys.argv[1:]); "
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = _python(code, str(tiny_onnx), str(IMAGES / "rocket.jpg"))
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_memory_of_a_call_is_told_without_a_runtime(tiny_onnx: Path) -> None:
    code = "import sys; from rest_deploy.cli.info import main; main(sys.argv[1:]); "
    code += "print([m for m in ('torch', 'onnx', 'onnxruntime', 'cuda', 'tensorrt', 'PIL') if m in sys.modules])"
    done = _python(code, str(tiny_onnx), "--memory", "224", "8x4000x4000")
    assert "8x4000x4000" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_batch_needs_no_pillow_and_a_usual_picture_only_pillows_usual_formats(tiny_onnx: Path) -> None:
    code = "import sys, numpy; from rest_deploy import Predictor; p = Predictor(sys.argv[1]); "
    code += "p.logits(numpy.zeros((1, 3, 32, 32), 'float32')); print('PIL' in sys.modules); "
    code += "p.classify(sys.argv[2]); print('PIL.TiffImagePlugin' in sys.modules)"
    assert _python(code, str(tiny_onnx), str(IMAGES / "chelsea.png")).stdout.split() == ["False", "False"]


def test_importing_the_package_loads_not_even_numpy() -> None:
    assert _python("import sys, rest_deploy; print('numpy' in sys.modules)").stdout.strip() == "False"
