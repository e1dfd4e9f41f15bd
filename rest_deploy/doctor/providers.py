"""Execution providers of ONNX Runtime: whether a network really runs on them."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rest_deploy.doctor.attempts import attempt
from rest_deploy.doctor.records import CPU, CUDA, Integers, Provider
from rest_deploy.errors import DeviceError

#: An ONNX file of one float32 Conv (1, 1, h, w) by (1, 1, 1, 1), which on a GPU needs cuDNN as ResT does;
#: tests/doctor/test_providers.py builds the same bytes with the onnx package.
_GRAPH = base64.b64decode(
    "CAUSC3Jlc3RfZGVwbG95OnYKDwoBeAoBdxIBeSIEQ29udhIIcHJvdmlkZXJaHQoBeBIYChYIARISCgIIAQoCCAEKAxIBaAoDEgF3WhsKAXcSFgoU"
    "CAESEAoCCAEKAggBCgIIAQoCCAFiHQoBeRIYChYIARISCgIIAQoCCAEKAxIBaAoDEgF3QgQKABAL"
)
_FACTORS = 3.0, 5.0
_NAMES = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
_STDERR = 2
#: How ONNX Runtime logs that a provider's shared library does not load, and how it colours what it logs.
_NOT_LOADED, _COLOUR = re.compile(r"with error: ([^\n]+)"), re.compile(r"\x1b\[[\d;]*m")


def check_provider(device: str) -> Provider:
    """Run a network of one operator on ``"cpu"`` or ``"cuda"``."""
    with _stderr_held_back() as held:
        problem = attempt(_run, device).problem
    reason = _NOT_LOADED.search(_COLOUR.sub("", held.text))
    if problem and reason and reason[1] not in problem:
        problem = f"{problem} ({' '.join(reason[1].split())[:200]})"
    return Provider(_NAMES[device], device, problem.removeprefix(f"device {device}:0: "))


def check_integers() -> Integers:
    """Ask ONNX Runtime whether it adds 8-bit products exactly on this CPU."""
    outcome = attempt(_sums_saturate)
    return Integers(outcome.value, outcome.problem)


def _sums_saturate() -> bool:
    from rest_deploy.runtimes.saturation import sums_saturate

    return sums_saturate()


def _run(device: str) -> None:
    """Open the network as :mod:`rest_deploy.runtimes.ort` opens one, and compare what it gives."""
    import numpy as np

    session = _open(device)
    first, second = (np.full((1, 1, 1, 1), factor, np.float32) for factor in _FACTORS)
    (product,) = session.run(None, {"x": first, "w": second})
    if float(product.item()) != _FACTORS[0] * _FACTORS[1]:
        raise DeviceError(f"ONNX Runtime multiplies wrongly on {device}: {_FACTORS} gave {product.item()}")


def _open(device: str) -> Any:
    from rest_deploy.runtimes.devices import Device
    from rest_deploy.runtimes.ort import open_session

    session = open_session(_GRAPH, Path("one convolution"), Device.parse(device), 1)
    if session.get_providers()[:1] != [_NAMES[device]]:
        raise DeviceError(f"ONNX Runtime did not start its {_NAMES[device]}; it has {session.get_providers()}")
    return session


class _Held:
    text = ""


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[_Held]:
    """Hold back what native code writes to stderr: ONNX Runtime tells only there which library a provider lacks."""
    held = _Held()
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(_STDERR)
        except OSError:  # no folder for temporary files, or no stderr: the reason is not told
            yield held
            return
        stack.callback(os.close, kept)
        sys.stderr.flush()
        os.dup2(file.fileno(), _STDERR)
        try:
            yield held
        finally:
            os.dup2(kept, _STDERR)
            file.seek(0)
            held.text = file.read().decode(errors="replace")
