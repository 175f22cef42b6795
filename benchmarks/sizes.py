"""How much is measured: all of it, or a little of it, to see whether it works."""

from __future__ import annotations

import sys

import msgspec


class Sizes(msgspec.Struct, frozen=True):
    """Sizes of all benchmarks. ``text``, ``images`` and ``fleet`` are (records, shards)."""

    rounds: int = 5
    seed: int = 1
    text: tuple[int, int] = (200_000, 2_000)
    images: tuple[int, int] = (10_000, 100)
    rates: tuple[int, ...] = (20, 200)
    live_seconds: float = 30.0
    rest_shards: int = 10_000
    rest_seconds: float = 20.0
    settle_seconds: float = 10.0
    keys: tuple[int, ...] = (0, 100_000, 1_000_000, 10_000_000)
    further_records: int = 20_000
    restart_shards: int = 100_000
    gigabytes: float = 1.0
    near_texts: int = 20_000
    near_known: tuple[int, ...] = (0, 100_000, 1_000_000)
    fleet: tuple[int, int] = (40_000, 400)
    collectors: tuple[int, ...] = (1, 2, 4)
    writers: tuple[int, ...] = (1, 2)


QUICK = Sizes(
    rounds=1,
    text=(2_000, 40),
    images=(400, 8),
    rates=(20,),
    live_seconds=2.0,
    rest_shards=200,
    rest_seconds=1.0,
    settle_seconds=1.0,
    keys=(0, 20_000),
    further_records=2_000,
    restart_shards=500,
    gigabytes=0.01,
    near_texts=500,
    near_known=(0, 10_000),
    fleet=(400, 8),
    collectors=(2,),
    writers=(1,),
)


def say(text: str) -> None:
    """Tell on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)
