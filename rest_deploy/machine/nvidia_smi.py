"""NVIDIA's GPUs as nvidia-smi tells of them: driver, clocks, temperature, why they are slowed down."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import one_line

_TIMEOUT_S = 10.0
_KILLED_S = 1.0
#: What it writes in place of a value that a GPU does not have, or does not tell.
_NO_VALUE = re.compile(r"\[.*\]|N/A|", re.IGNORECASE)


def _text(value: str) -> str | None:
    return None if _NO_VALUE.fullmatch(value) else value


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and "." not in value else number


#: Column of nvidia-smi --help-query-gpu -> name in the record, and how it is read. Two for the reasons of a slow clock:
#: newer drivers know them by the first name, older ones by the second alone.
_COLUMNS: Mapping[str, tuple[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "name": ("name", _text),
        "driver_version": ("driver", _text),
        "memory.total": ("memory_mib", _number),
        "compute_cap": ("compute_capability", _text),
        "clocks.sm": ("sm_clock_mhz", _number),
        "clocks.max.sm": ("max_sm_clock_mhz", _number),
        "clocks.mem": ("memory_clock_mhz", _number),
        "temperature.gpu": ("temperature_c", _number),
        "power.draw": ("power_w", _number),
        "clocks_event_reasons.active": ("throttle_reasons", _text),
        "clocks_throttle_reasons.active": ("throttle_reasons", _text),
    }
)
_NO_COLUMN = re.compile(r'Field "([^"]+)" is not a valid field to query')


def query_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """The GPUs, and why there are none to tell of; never an exception.

    Returns:
        A record for each GPU: name, driver, memory_mib, compute_capability (``"8.9"``), sm_clock_mhz,
        max_sm_clock_mhz, memory_clock_mhz, temperature_c, power_w, throttle_reasons (a bit mask), each None where it
        is not told; and a note, None where there are GPUs.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "nvidia-smi is not on the PATH"
    columns = list(_COLUMNS)
    deadline = time.monotonic() + _TIMEOUT_S
    while columns:
        code, said = _ask(program, columns, max(0.0, deadline - time.monotonic()))
        if code == 0:
            gpus = parse_gpus(said, columns)
            return gpus, None if gpus else "nvidia-smi finds no GPU"
        unknown = _NO_COLUMN.search(said)
        if unknown is None or unknown[1] not in columns:
            return [], said
        columns.remove(unknown[1])  # of another age than this driver
    return [], "nvidia-smi knows none of the columns that were asked for"


def parse_gpus(text: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Records out of what ``nvidia-smi --query-gpu=COLUMNS --format=csv,noheader,nounits`` printed."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(columns):
            continue  # a warning in between
        gpu: dict[str, Any] = {name: None for name, _ in _COLUMNS.values()}
        for column, value in zip(columns, row, strict=True):
            name, read = _COLUMNS[column]
            gpu[name] = read(value.strip()) if gpu[name] is None else gpu[name]
        gpus.append(gpu)
    return gpus


def _ask(program: str, columns: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and output, or -1 and why there is none."""
    command = [program, f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(  # noqa: S603  (found on PATH, with columns of ours)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as exc:
        return -1, f"nvidia-smi does not start: {one_line(exc)}"
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return -1, f"nvidia-smi did not answer within {_TIMEOUT_S:g} s"
    if process.returncode == 0:
        return 0, said
    return process.returncode, f"nvidia-smi failed ({process.returncode}): {' '.join(said.split())[:300]}"


def _kill(process: subprocess.Popen[str]) -> None:
    """Stop it, and do not wait for long: where the driver hangs, not even a killed process ends."""
    process.kill()
    try:
        process.wait(_KILLED_S)
    except subprocess.TimeoutExpired:
        return
    if process.stdout is not None:
        process.stdout.close()
