"""Many simulated lives, one for each seed (see ``tests/suites/faults/simulation.py``)."""

from __future__ import annotations

import os
import sys

import pytest

from tests.suites.faults import vfs
from tests.suites.faults.simulation import live

SEEDS = int(os.environ.get("STREAMER_SEEDS", "60"))


@pytest.mark.skipif(not vfs.available(), reason="this SQLite cannot be reached from outside")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_promise_is_broken_in_the_life_of_seed(seed: int) -> None:
    """``python -m tests.suites.faults.simulation SEED`` lives it again."""
    sys.stdout.write(f"python -m tests.suites.faults.simulation {seed}\n")
    live(seed, print)
