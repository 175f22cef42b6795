"""What a test needs of a fleet: its configuration, the commands, and a look at its servers past streamer."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import nats
import nkeys
from nats.js.errors import KeyNotFoundError

from streamer.config.fleet_names import META_PARTITIONS
from tests.helpers.place import environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from nats.js import JetStreamContext

DATASET = "crafter"
STREAM = f"streamer-{DATASET}"
OWNERS = f"{STREAM}-owners"


def write_config(
    file: Path, servers: Iterable[str], monitors: Iterable[str] = (), fleet: str = "", more: str = ""
) -> Path:
    """Write the configuration of a person who sets a fleet up."""
    monitor = f"monitor = {json.dumps(list(monitors))}\n" if monitors else ""
    file.write_text(
        f'[fleet]\nservers = {json.dumps(list(servers))}\ndataset = "{DATASET}"\n{monitor}{fleet}\n{more}\n'
    )
    return file


def run(*arguments: object, inside: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of streamer to its end; ``inside`` is a command that runs it somewhere else."""
    return subprocess.run(
        [*inside, sys.executable, "-m", "streamer", *map(str, arguments)], env=environment(), check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def init(config: Path, *arguments: object, code: int = 0, inside: Sequence[str] = ()) -> list[str]:
    """Set a fleet up; return what it says."""
    done = run("fleet", "init", "--config", config, *arguments, inside=inside)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def at(urls: Iterable[str], work: Callable[[JetStreamContext], Awaitable[Any]], **options: Any) -> Any:
    """Do something over a connection of nobody in particular."""

    async def main() -> Any:
        client = await nats.connect(list(urls), **options)
        try:
            return await work(client.jetstream(timeout=20))
        finally:
            await client.close()

    return anyio.run(main)


def hurry(urls: Iterable[str], buckets: int) -> None:
    """Give out again after 3 s, in place of 30, what a writer that was killed had been given."""

    async def work(js: JetStreamContext) -> None:
        for bucket in range(buckets):
            config = (await js.consumer_info(STREAM, f"bucket-{bucket}")).config
            await js.add_consumer(STREAM, config.evolve(ack_wait=3.0))

    at(urls, work)


def owners(urls: Iterable[str]) -> dict[int, dict[str, str]]:
    """Return who has which bucket, as the servers say."""

    async def look(js: JetStreamContext) -> dict[int, dict[str, str]]:
        store = await js.key_value(OWNERS)
        buckets = int(((await js.stream_info(STREAM)).config.metadata or {})[META_PARTITIONS])
        found = {}
        for bucket in range(buckets):
            with suppress(KeyNotFoundError):
                found[bucket] = json.loads((await store.get(str(bucket))).value or b"")
        return found

    found: dict[int, dict[str, str]] = at(urls, look)
    return found


def public_key(seed: Path) -> str:
    """Return the public half of a user's key."""
    return str(nkeys.from_seed(seed.read_bytes().strip()).public_key.decode())
