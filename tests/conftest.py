"""Fixtures that the tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.producer import FakeClock

# The same examples in every run, however slow the machine is.
settings.register_profile("streamer", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("streamer")


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still until a test moves it."""
    return FakeClock()
