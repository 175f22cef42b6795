"""Who is compared: streamer, the peers, and ``cat`` as the floor. Each is a command line."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks.measure import PYTHON, STREAMER

Command = Callable[[Path, Path], list[str]]
"""(folder of the corpus, folder for the output) -> command line; the output is ``OUTPUT`` in the second."""

OUTPUT = "good.jsonl"


class Contender(msgspec.Struct, frozen=True):
    """One way to do the job. ``live`` is the command that goes on for ever, if it has one.

    ``deduplicates`` is false for those that are no more than a floor. ``needs`` is the package without which it
    does not run.
    """

    name: str
    command: Command
    live: Command | None = None
    deduplicates: bool = True
    needs: str = "streamer"

    @property
    def installed(self) -> bool:
        """Say whether its package is there."""
        return find_spec(self.needs) is not None


def streamer_config(corpus: Path, out: Path, where: str = "total_reward > 0") -> Path:
    """Write the configuration of a daemon with a dataset of its own into ``out``; return its path."""
    path = out / "config.toml"
    path.write_text(
        f'[source]\nshards = "{corpus / "shards"}"\ndatabase = "{corpus / "traces.db"}"\n'
        f'[qualify]\nwhere = "{where}"\n[dataset]\npath = "{out / OUTPUT}"\n'
    )
    return path


def _streamer(*more: str) -> Command:
    return lambda corpus, out: [*STREAMER, "run", *more, "--config", str(streamer_config(corpus, out))]


def _peer(module: str, *more: str) -> Command:
    return lambda corpus, out: [
        *PYTHON,
        f"benchmarks.peers.{module}",
        str(corpus / "shards"),
        str(corpus / "traces.db"),
        str(out / OUTPUT),
        *more,
    ]


def _cat(script: str) -> Command:
    return lambda corpus, out: ["sh", "-c", script, "cat", str(corpus / "qualifying"), str(out / OUTPUT)]


STREAMER_NAME = "streamer"
DUCKDB = "DuckDB"
BARE_LOOP = "bare loop"
CAT_SYNC = "cat + sync"

CONTENDERS = (
    Contender(STREAMER_NAME, _streamer("--once"), _streamer()),
    Contender(DUCKDB, _peer("duckdb_"), needs="duckdb"),
    Contender("Polars", _peer("polars_"), needs="polars"),
    Contender("Pathway", _peer("pathway_"), _peer("pathway_", "live"), needs="pathway"),
    Contender(BARE_LOOP, _peer("bare_loop"), _peer("bare_live"), needs="xxhash"),
    Contender(CAT_SYNC, _cat('xargs -0 cat < "$1" > "$2" && sync "$2"'), deduplicates=False),
    Contender("cat", _cat('xargs -0 cat < "$1" > "$2"'), deduplicates=False),
)
