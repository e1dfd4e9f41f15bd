"""Plant faults in a copy of the package, one at a time, and run the test of the first lane that must find each.

python -m tests.planted_faults [WORD]   (make faults: all of them; a word of its name picks some)

The list is also CONTRIBUTING's. The exit code is 1 where a row's text is not in its file, or its test passes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_COPIED = ("rest_deploy", "tests", "examples", "benchmarks", "docs")


@dataclass(frozen=True)
class Fault:
    """A row: ``old`` stands once in ``file`` of the package and becomes ``new``; ``test`` must fail then."""

    name: str
    file: str
    old: str
    new: str
    test: str


FAULTS = (
    Fault(
        "a size baked into the graph",
        "models/deploy.py",
        "return x.mean(dim=(1, 2))",
        "return x.sum(dim=(1, 2)) / (x.shape[1] * x.shape[2])",
        "tests/export/test_trace.py::test_traces_the_deploy_form_without_a_size",
    ),
    Fault(
        "a wrong weight in the deploy form",
        "models/deploy.py",
        "attn.q.bias.double() * attn.scale",
        "attn.q.bias.double()",
        "tests/models/test_deploy.py::test_is_the_same_function_with_lively_weights",
    ),
    Fault(
        "a block with the weights of another",
        "export/assemble.py",
        "deploy.get_submodule(name)",
        "deploy[kind]",
        "tests/export/test_assemble.py::test_each_piece_has_its_own_weights_and_names",
    ),
    Fault(
        "a half softmax",
        "models/deploy.py",
        "(nn.LayerNorm, Centre, Pool, CentredSoftmax, Softmax)",
        "(nn.LayerNorm, Centre, Pool)",
        "tests/export/precision/test_plan.py::test_the_deploy_form_declares_what_stays_fp32",
    ),
    Fault(
        "a flipped bit that nobody looks for",
        "artifact/onnx_file.py",
        "self.content[sealed:] != _seal(memoryview(self.content)[:sealed])",
        "len(self.content[sealed:]) != _SEAL_BYTES",
        "tests/artifact/test_onnx_file.py::test_the_seal_covers_all",
    ),
    Fault(
        "a killed export that loses the old file",
        "artifact/files.py",
        "    source.replace(target)\n",
        "    target.unlink(missing_ok=True)\n    source.rename(target)\n",
        "tests/reliability/test_crash_safety.py::test_death_at_every_line_leaves_the_old_or_the_new_one[file]",
    ),
    Fault(
        "a CUDA provider that lies",
        "runtimes/ort.py",
        "active = session.get_providers()",
        'active = ["CUDAExecutionProvider"]',
        "tests/runtimes/test_ort.py::test_a_provider_that_did_not_start_is_an_error",
    ),
)


def find(fault: Fault, folder: Path) -> str | None:
    """Plant a fault in a copy below a folder and run its test; None where the test finds it, else what went wrong."""
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.[mt][dox][mlt]*"):
        shutil.copy(file, folder)
    path = folder / "rest_deploy" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        return f"{fault.file} has {text.count(fault.old)} times {fault.old!r}; mend the row"
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", fault.test]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 1 or "FAILED" not in done.stdout:  # an error while collecting finds nothing
        return f"{fault.test} ended with {done.returncode}: {done.stdout[-300:]}"
    return None


def main(word: str = "") -> int:
    """Try the faults with a word in their name."""
    missed = 0
    for fault in (fault for fault in FAULTS if word in fault.name):
        with tempfile.TemporaryDirectory() as folder:
            wrong = find(fault, Path(folder))
        missed += wrong is not None
        print(f"{fault.name}: {wrong or f'found by {fault.test}'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
