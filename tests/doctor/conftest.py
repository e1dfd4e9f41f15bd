"""What every test of rest-doctor needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rest_deploy.doctor import checks
from tests.doctor.machines import forget_sums


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    checks.requirements.cache_clear()
    yield from forget_sums()
