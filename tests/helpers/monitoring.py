"""promtool, where it is installed."""

from __future__ import annotations

import os
import shutil

import pytest


def promtool() -> str:
    """Return the program, or skip the test where there is none."""
    found = os.environ.get("STREAMER_PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not installed: `make test-monitoring` gets it (Debian package prometheus)")
    return found
