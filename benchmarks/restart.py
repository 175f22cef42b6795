"""Restart: how long is a daemon away that knows many shards? Nothing of it can be passed over unseen."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

from benchmarks.contenders import streamer_config
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from benchmarks.measure import STREAMER, environment, measure
from benchmarks.results import Restart
from benchmarks.running import Place, started
from benchmarks.sizes import Sizes, say

_PATIENCE = 300.0
_PROMPT_BYTES = 50
_OTHER_SEED = 1_000


def run(sizes: Sizes, work: Path) -> list[Restart]:
    """Let a daemon take tiny shards, one record each, then start it again and again.

    Before each start one rollout more has ended. It is in the dataset when the daemon has looked through all.
    """
    shards, seed = sizes.restart_shards, sizes.seed
    say(f"restart: {shards:,} shards")
    tiny = Corpus(Kind.TEXT, Layout.MESSAGES, records=shards, shards=shards, seed=seed, prompt_bytes=_PROMPT_BYTES)
    tiny.write(work)
    further = Corpus(
        Kind.TEXT, Layout.MESSAGES, records=sizes.rounds, shards=sizes.rounds, seed=seed + _OTHER_SEED, plain=True
    )
    place = Place(further, work).make()
    command = [*STREAMER, "run", "--config", str(streamer_config(work, place.out))]
    found = Restart(shards, measure([*command, "--once"], work / "log"), [], [])
    say(f"  first pass {found.first_pass.wall:.2f} s")
    for rollout in range(sizes.rounds):
        ready, taken = _start(place, command, rollout)
        found.ready.append(ready)
        found.taken.append(taken)
        say(f"  ready after {ready:.2f} s, up to date after {taken:.2f} s")
    shutil.rmtree(work)
    return [found]


def _start(place: Place, command: list[str], rollout: int) -> tuple[float, float]:
    before = place.output.stat().st_size
    place.add(rollout)
    address = place.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(address))
        notified.settimeout(_PATIENCE)
        start = time.monotonic()
        with started(command, place.folder / "log", environment(NOTIFY_SOCKET=str(address))):
            while b"READY=1" not in notified.recv(1 << 16):
                pass
            ready = time.monotonic() - start
            place.wait_for(rollout, before)
            taken = time.monotonic() - start
    address.unlink()
    return ready, taken
