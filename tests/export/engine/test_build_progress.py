"""The progress of a build: a share that only grows, told from any thread, and the way to stop."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rest_deploy.export.engine.builder import BuildProgress, progress_monitor
from rest_deploy.nvidia import Library, is_installed, load_library

ROOT = "Building engine"


class Report:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str]] = []

    def __call__(self, share: float, phase: str) -> None:
        self.told.append((share, phase))

    @property
    def shares(self) -> list[float]:
        return [share for share, _ in self.told]


@pytest.fixture
def report() -> Report:
    return Report()


@pytest.fixture
def progress(report: Report) -> BuildProgress:
    """A build of four steps that has begun."""
    progress = BuildProgress(report)
    progress.start(ROOT, None, 4)
    return progress


def test_the_steps_of_a_phase(progress: BuildProgress, report: Report) -> None:
    for index in range(4):
        assert progress.step(ROOT, index)
    assert report.told == [(share, ROOT) for share in (0, 0.25, 0.5, 0.75, 1)]


def test_steps_may_be_left_out(progress: BuildProgress, report: Report) -> None:
    progress.step(ROOT, 2)
    assert report.shares[-1] == 0.75


def test_the_steps_of_a_phase_within_count_as_part_of_a_step(progress: BuildProgress, report: Report) -> None:
    progress.step(ROOT, 0)
    progress.start("Timing", ROOT, 2)
    progress.step("Timing", 0)
    assert report.told[-1] == (0.25 + 0.125, "Timing")
    progress.start("One layer", "Timing", 5)
    progress.step("One layer", 0)
    assert report.told[-1] == (pytest.approx(0.25 + 0.125 + 0.25 / 2 / 5), "One layer")


def test_of_two_phases_side_by_side_the_further_counts(progress: BuildProgress, report: Report) -> None:
    progress.start("first", ROOT, 10)
    progress.start("second", ROOT, 2)
    progress.step("second", 0)
    progress.step("first", 0)
    assert report.shares[-1] == 0.125


def test_the_share_does_not_go_back_where_a_phase_is_repeated(progress: BuildProgress, report: Report) -> None:
    for _ in range(2):
        progress.start("again", ROOT, 2)
        progress.step("again", 0)
        progress.step("again", 1)
        progress.finish("again")
    assert report.shares == sorted(report.shares)
    assert report.shares[-1] == 0.25  # within the first of four steps all the while


def test_a_phase_that_has_ended_counts_no_more(progress: BuildProgress, report: Report) -> None:
    progress.start("within", ROOT, 1)
    progress.finish("within")
    progress.step(ROOT, 0)
    assert report.shares[-1] == 0.25


@pytest.mark.parametrize("steps", [0, -1])
def test_a_phase_without_steps(report: Report, steps: int) -> None:
    progress = BuildProgress(report)
    progress.start(ROOT, None, steps)
    progress.step(ROOT, 0)
    assert report.shares == [0, 1]


@pytest.mark.parametrize("parent", ["never begun", "root"])
def test_the_share_stays_within_bounds(report: Report, parent: str) -> None:
    progress = BuildProgress(report)
    progress.start("root", None, 1)
    progress.start("child", parent, 1)
    for index in range(3):
        progress.step("child", index)
        progress.step("root", index)
    assert all(0 <= share <= 1 for share in report.shares)


def test_a_phase_that_never_began_and_one_that_is_its_own_parent(progress: BuildProgress, report: Report) -> None:
    progress.start("loop", "loop", 2)
    progress.step("loop", 0)
    progress.step("never begun", 3)
    progress.finish("never begun")
    assert report.shares[-1] == 0


def test_a_phase_whose_parent_was_never_told_stands_for_the_build(report: Report) -> None:
    progress = BuildProgress(report)
    progress.start("child", "never begun", 2)
    progress.step("child", 0)
    assert report.shares == [0, 0.5]


def test_a_step_before_any_phase_is_no_progress(report: Report) -> None:
    progress = BuildProgress(report)
    assert progress.step(ROOT, 0)
    assert report.shares == [0]


def test_without_a_report() -> None:
    progress = BuildProgress()
    progress.start(ROOT, None, 1)
    assert progress.step(ROOT, 0)


def test_cancelling_stops_at_the_next_step(progress: BuildProgress) -> None:
    assert not progress.cancelled
    progress.cancel()
    assert progress.cancelled
    assert not progress.step(ROOT, 0)
    assert not BuildProgress().cancelled


def test_a_report_that_raises_is_asked_no_more_and_the_build_goes_on() -> None:
    """An exception within TensorRT's thread would end the process."""
    calls = []

    def report(share: float, phase: str) -> None:
        calls.append(share)
        raise OSError("the terminal is gone")

    progress = BuildProgress(report)
    progress.start(ROOT, None, 2)
    assert progress.step(ROOT, 0)
    assert calls == [0]


def test_a_report_may_ask_and_cancel(report: Report) -> None:
    """It is called without the lock held."""
    progress = BuildProgress(lambda share, phase: progress.cancel())
    thread = threading.Thread(target=progress.start, args=(ROOT, None, 1), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert progress.cancelled


def test_phases_from_several_threads(report: Report) -> None:
    progress = BuildProgress(report)

    def work(name: str) -> None:
        for index in range(200):
            progress.start(name, ROOT, 200)
            progress.step(name, index)
            progress.finish(name)

    progress.start(ROOT, None, 1)
    threads = [threading.Thread(target=work, args=(f"phase {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(report.told) == 1 + 4 * 200 * 2
    assert max(report.shares) == 1


def _library() -> Library:
    class IProgressMonitor:
        def __init__(self) -> None:
            self.made = True

    return Library("trt", SimpleNamespace(IProgressMonitor=IProgressMonitor), "10.9.0.34")


LIBRARIES = [
    pytest.param(_library, id="stand-in"),
    pytest.param(
        lambda: load_library("trt-rtx", "test"),
        id="rtx",
        marks=pytest.mark.skipif(not is_installed("trt-rtx"), reason="pip install 'rest-deploy[trt-rtx]'"),
    ),
]


@pytest.mark.parametrize("make", LIBRARIES)
def test_the_monitor_hands_on_what_tensorrt_tells(make: Any, report: Report) -> None:
    library, progress = make(), BuildProgress(report)
    monitor = progress_monitor(library, progress)
    assert isinstance(monitor, library.api.IProgressMonitor)
    assert getattr(monitor, "made", True)
    monitor.phase_start(ROOT, None, 2)
    monitor.phase_start("within", ROOT, 4)
    assert monitor.step_complete("within", 1) is True
    monitor.phase_finish("within")
    progress.cancel()
    assert monitor.step_complete(ROOT, 0) is False
    assert report.told == [(0, ROOT), (0, "within"), (0.25, "within"), (0.5, ROOT)]
