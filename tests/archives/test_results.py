"""Rows on their way to a file, whoever is killed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_death_at_every_line_goes_on_to_the_same_rows() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.archives.dying"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["bad"] == []
    assert set(told["found"]) == {"nothing", "whole"}
    assert told["found"]["nothing"] > 100  # all of the code, not its first lines
