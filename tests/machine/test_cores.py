"""The cores that this process may use."""

import os
from pathlib import Path

import pytest

from rest_deploy.machine import cpu
from rest_deploy.machine.cpu import physical_cores, usable_cores


@pytest.fixture
def machine(monkeypatch):
    """Pretend that this process may run on some processors, given the list of siblings of each."""

    def pretend(siblings):
        def read_text(path):
            number = int(path.parent.parent.name.removeprefix("cpu"))
            if siblings[number] is None:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return siblings[number] + "\n"

        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings), raising=False)
        monkeypatch.setattr(Path, "read_text", read_text)

    return pretend


@pytest.mark.parametrize(
    ("siblings", "cores"),
    [
        ({0: "0", 1: "1", 2: "2"}, 3),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, 2),
        ({0: "0,4", 4: "0,4", 1: "1,5"}, 2),  # one of the two threads of core 1 is not ours
        ({3: "3,7"}, 1),
        ({0: None, 1: None}, 2),  # a container that hides the topology
        ({}, 1),
    ],
)
def test_threads_of_one_core_count_once(machine, siblings, cores):
    machine(siblings)
    assert physical_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_without_affinity_all_processors_count(monkeypatch, count, cores):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert physical_cores() == cores


def test_this_machine_has_cores():
    assert 1 <= physical_cores() <= os.cpu_count()


@pytest.mark.parametrize(
    ("cores", "quota", "usable"),
    [(8, None, 8), (8, 4.0, 4), (8, 1.9, 1), (8, 0.5, 1), (8, 0.001, 1), (2, 16.0, 2), (4, 4.0, 4), (1, None, 1)],
)
def test_threads_are_at_most_the_quota(monkeypatch, cores, quota, usable):
    monkeypatch.setattr(cpu, "physical_cores", lambda: cores)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    assert usable_cores() == usable


def test_this_machine_has_usable_cores():
    assert 1 <= usable_cores() <= physical_cores()
