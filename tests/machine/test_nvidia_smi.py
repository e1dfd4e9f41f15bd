"""What nvidia-smi tells: values, absent ones, unknown columns, and every way in which it fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rest_deploy.machine import nvidia_smi
from rest_deploy.machine.nvidia_smi import parse_gpus, query_gpus

COLUMNS = list(nvidia_smi._COLUMNS)
H100 = (
    "NVIDIA H100 80GB HBM3, 580.82.07, 81559, 9.0, 1980, 1980, 2619, 40, 80.52, 0x0000000000000001, 0x0000000000000001"
)
ABSENT = "NVIDIA Thor, 580.00, [N/A], 11.0, [Not Supported], [Unknown Error], N/A, 44, nan, [N/A], 0x4"
RECORD = {
    "name": "NVIDIA H100 80GB HBM3", "driver": "580.82.07", "memory_mib": 81559, "compute_capability": "9.0",
    "sm_clock_mhz": 1980, "max_sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 40, "power_w": 80.52,
    "throttle_reasons": "0x0000000000000001",
}  # fmt: skip


def _install(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """An nvidia-smi of our own, the only program on the PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def test_a_gpu() -> None:
    assert parse_gpus(f"{H100}\n", COLUMNS) == [RECORD]


def test_values_that_are_not_told_are_none() -> None:
    (gpu,) = parse_gpus(ABSENT, COLUMNS)
    assert {name: value for name, value in gpu.items() if value is not None} == {
        "name": "NVIDIA Thor", "driver": "580.00", "compute_capability": "11.0", "temperature_c": 44,
        "throttle_reasons": "0x4",
    }  # fmt: skip
    assert list(gpu) == list(RECORD)


@pytest.mark.parametrize(("newer", "older"), [("0x4", "[N/A]"), ("[N/A]", "0x4"), ("0x4", "0x8")])
def test_the_reasons_of_a_slow_clock_have_two_names(newer: str, older: str) -> None:
    (gpu,) = parse_gpus(f"{newer}, {older}", ["clocks_event_reasons.active", "clocks_throttle_reasons.active"])
    assert gpu["throttle_reasons"] == "0x4"


def test_lines_that_are_no_gpu_are_passed_over() -> None:
    text = f"WARNING: infoROM is corrupted at gpu 0000:3B:00.0\n{H100}\n\n{H100}\n"
    assert parse_gpus(text, COLUMNS) == [RECORD, RECORD]


def test_a_name_with_a_comma() -> None:
    (gpu,) = parse_gpus('"Graphics, Device", 12', ["name", "clocks.sm"])
    assert (gpu["name"], gpu["sm_clock_mhz"]) == ("Graphics, Device", 12)


def test_it_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path, f'test "$2" = "--format=csv,noheader,nounits" && echo "{H100}"')
    assert query_gpus() == ([RECORD], None)


def test_columns_that_a_driver_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = """case "$1" in
    *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
    *clocks_event*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.' >&2; exit 2;;
    esac
    echo "Tesla V100, 450.51, 32510, 1380, 1380, 877, 33, 55, 0x2"
    """
    _install(monkeypatch, tmp_path, script)
    (gpu,), note = query_gpus()
    assert note is None
    assert (gpu["name"], gpu["memory_mib"], gpu["power_w"], gpu["throttle_reasons"]) == ("Tesla V100", 32510, 55, "0x2")
    assert gpu["compute_capability"] is None


def test_a_driver_that_knows_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = """columns=${1#--query-gpu=}; echo "Field \\"${columns%%,*}\\" is not a valid field to query."; exit 2"""
    _install(monkeypatch, tmp_path, script)
    assert query_gpus() == ([], "nvidia-smi knows none of the columns that were asked for")


@pytest.mark.parametrize(
    ("script", "note"),
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not\n communicate with the NVIDIA driver.'; exit 9",
            "nvidia-smi failed (9): NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.",
        ),
        ("echo 'Field \"foo\" is not a valid field to query.'; exit 2", 'nvidia-smi failed (2): Field "foo" is not'),
        ("exit 0", "nvidia-smi finds no GPU"),
        ("echo 'No devices were found'", "nvidia-smi finds no GPU"),
        ("printf '\\377\\376'; exit 1", "nvidia-smi failed (1): "),
    ],
)
def test_a_failure_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, note: str) -> None:
    _install(monkeypatch, tmp_path, script)
    gpus, said = query_gpus()
    assert gpus == []
    assert said is not None
    assert said.startswith(note)


def test_it_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpus() == ([], "nvidia-smi is not on the PATH")


def test_it_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path, "").write_bytes(b"\x7fELF of another machine")
    gpus, note = query_gpus()
    assert gpus == []
    assert str(note).startswith("nvidia-smi does not start: ")


@pytest.mark.parametrize("ends", [True, False])
def test_it_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, ends: bool) -> None:
    """As where the driver does; not even killed need it end."""
    waited: list[float] = []

    class Hanging:
        stdout = None
        killed = False

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def communicate(self, timeout: float) -> None:
            raise subprocess.TimeoutExpired("nvidia-smi", timeout)

        def kill(self) -> None:
            Hanging.killed = True

        def wait(self, timeout: float) -> None:
            waited.append(timeout)
            if not ends:
                raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    _install(monkeypatch, tmp_path, "")
    monkeypatch.setattr(subprocess, "Popen", Hanging)
    assert query_gpus() == ([], "nvidia-smi did not answer within 10 s")
    assert Hanging.killed
    assert waited == [1.0]
