"""Fixtures that the tests share, and the way to their helper modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `tests.producer`, however pytest was started

from tests.producer import FakeClock  # noqa: E402 - the path comes first


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still until a test moves it."""
    return FakeClock()
