"""The troubleshooting page as a program: each check looks at one thing, and its findings name the remedy.

The checks write only one temporary file beside the dataset, to see whether notifications arrive there.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import anyio
import msgspec
from watchfiles import awatch

from streamer.base.errors import StreamerError
from streamer.base.files import SystemClock, path_text
from streamer.base.lock import holder, lock_file
from streamer.base.text import counted
from streamer.config import Config, From, Source
from streamer.config.database_url import Server, locate
from streamer.config.fleet_names import Names
from streamer.config.fleet_table import SinkKind
from streamer.core.records import layouts
from streamer.core.records.layouts import MalformedError
from streamer.core.verdicts.near.signature import Signer
from streamer.core.verdicts.reasons import AFTER_LAST_OUTCOME
from streamer.fleet.connection import Stream, check_dedup, connected, stream_of
from streamer.sources.conversations import Conversations
from streamer.sources.database_file import open_for_batch
from streamer.sources.folder import shard_folder
from streamer.sources.outcomes import OutcomePoller
from streamer.sources.pages import FilePages, RemotePages
from streamer.sources.shards import FoundShard
from streamer.store.ledger.schema import way_out
from streamer.store.parts.files import open_dataset
from streamer.store.views.snapshot import snapshot

_SAMPLED = 1000
"""The most shards whose session is looked up in the trace database."""

_FIRST_LINE = 16 << 20
_LITTLE_ROOM = 1 << 30
_NOTIFY_SECONDS = 2.0
_REMOTE_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs", "ceph", "lustre", "glusterfs"}
)
_OFF = frozenset({"0", "false", "f", "no", "n", "off"})


_Check = Callable[[Config], Iterable["DoctorFinding"]]


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class DoctorFinding(msgspec.Struct, frozen=True):
    """One observation of a check, and its remedy."""

    level: Level
    what: str
    remedy: str = ""


def examine(configs: Sequence[Config], environ: Mapping[str, str]) -> Iterator[DoctorFinding]:
    """Yield the findings of every check that applies, in the order in which the checks build on each other.

    A check of what datasets have in common runs once. A check of a dataset runs for each, and its findings begin with
    the name of the dataset if there are several.
    """
    for for_each, checks in groupby(_checks(configs[0], environ), key=itemgetter(0)):
        group = [check for _, check in checks]
        for config in configs if for_each else configs[:1]:
            name = f"{config.dataset.path.name}: " if for_each and len(configs) > 1 else ""
            for finding in _findings(config, group):
                yield msgspec.structs.replace(finding, what=f"{name}{finding.what}")


def misconfigured(error: StreamerError) -> DoctorFinding:
    """Return the problem that an error describes."""
    return _problem(f"cannot {error.op}: {error.where}: {error.cause}", error.hint)


def _checks(config: Config, environ: Mapping[str, str]) -> list[tuple[bool, _Check]]:
    """Return the checks that apply, in order: whether each runs for every dataset, and the check."""
    is_local = config.source.is_local
    reads_shards = is_local and config.source.reads_shards
    shards = list(_shards(config)) if reads_shards else []
    table: tuple[tuple[bool, bool, _Check], ...] = (
        # it applies, it runs for each dataset, the check
        (reads_shards, False, partial(_shard_folder, environ=environ, shards=shards)),
        (reads_shards, False, partial(_shard_ends, shards=shards)),
        (is_local, True, _database),
        (is_local, False, _conversations),
        (reads_shards, False, partial(_matches, shards=shards)),
        (is_local, True, _ledger),
        (is_local, False, _notifications),
        (reads_shards, False, _watch_limits),
        (not is_local or config.sink.kind is SinkKind.JETSTREAM, False, _fleet),
        (True, True, _near),
        (True, True, _room),
        (True, True, _lock),
    )
    return [(for_each, check) for applies, for_each, check in table if applies]


def _findings(config: Config, checks: Iterable[_Check]) -> Iterator[DoctorFinding]:
    for check in checks:
        try:
            yield from check(config)
        except StreamerError as error:
            yield misconfigured(error)


def _ok(what: str) -> DoctorFinding:
    return DoctorFinding(Level.OK, what)


def _warning(what: str, remedy: str) -> DoctorFinding:
    return DoctorFinding(Level.WARNING, what, remedy)


def _problem(what: str, remedy: str) -> DoctorFinding:
    return DoctorFinding(Level.PROBLEM, what, remedy)


def _shards(config: Config) -> Iterator[FoundShard]:
    try:
        yield from shard_folder(config).scan()
    except OSError:
        return


def _shard_folder(config: Config, environ: Mapping[str, str], shards: Sequence[FoundShard]) -> Iterator[DoctorFinding]:
    folder = config.source.shards
    if not folder.is_dir():
        yield _problem(
            f"the shard folder {folder} is not there",
            "set SFT_OUTPUT_DIR (or TASKAPP_SFT_OUTPUT_DIR) where the task app is started, and the same here",
        )
    elif not os.access(folder, os.R_OK | os.X_OK):
        yield _problem(f"the shard folder {folder} cannot be read", f"sudo setfacl -m u:$USER:rx {folder}")
    elif shards:
        yield _ok(f"the shard folder {folder} holds {counted(len(shards), 'shard')}")
    else:
        yield from _why_empty(config.source, environ)


def _why_empty(source: Source, environ: Mapping[str, str]) -> Iterator[DoctorFinding]:
    others = sum(len(files) for _, _, files in os.walk(source.shards))
    if others:
        yield _problem(
            f"none of the {others:,} files in {source.shards} fits source.pattern {source.pattern!r}",
            "set source.pattern",
        )
        return
    if environ.get("TASKAPP_TRACING_ENABLED", "").strip().lower() in _OFF and "TASKAPP_TRACING_ENABLED" in environ:
        yield _problem(
            "TASKAPP_TRACING_ENABLED is off: the task app records nothing",
            "export TASKAPP_TRACING_ENABLED=1",
        )
        return
    yield _warning(
        f"the shard folder {source.shards} is empty",
        "if rollouts have ended: was the task app started with TASKAPP_TRACING_ENABLED=1 and with SFT_OUTPUT_DIR"
        " set to this folder? Shards are written when a rollout ends.",
    )


def _shard_ends(config: Config, shards: Sequence[FoundShard]) -> Iterator[DoctorFinding]:
    empty = [found for found in shards if not found.stat[2]]
    torn = [found for found in islice(shards, _SAMPLED) if found.stat[2] and not _ends(config, found)]
    if empty or torn:
        names = ", ".join(found.path for found in [*empty, *torn][:3])
        yield _warning(
            f"{counted(len(empty), 'shard')} empty, {len(torn):,} without a newline at the end ({names})",
            "if their rollouts are still being written, nothing; else the producer died, and the last line is lost",
        )


def _ends(config: Config, found: FoundShard) -> bool:
    try:
        with open(config.source.shards / found.path, "rb") as shard:
            shard.seek(-1, os.SEEK_END)
            return shard.read(1) == b"\n"
    except OSError:
        return True


def _database(config: Config) -> Iterator[DoctorFinding]:
    path = locate(config.source.database)
    if isinstance(path, Path) and not path.exists():
        yield _problem(
            f"the trace database {path} is not there",
            "the producer makes it with its first session; else: --database FILE, TURSO_LOCAL_DB_URL or SQLD_DB_PATH",
        )
        return
    rows, qualifying, sessions, rewarded = anyio.run(_count_outcomes, config)
    if not rows:
        yield _warning(f"{path} has no outcome rows yet", "they come when rollouts end; is tracing on?")
    elif not qualifying:
        yield _warning(
            f"none of the {rows:,} outcomes in {path} meets: {config.qualify.where}",
            f"see what there is: {_shell(path)} 'SELECT total_reward, count(*) FROM outcome_rewards GROUP BY 1'",
        )
    else:
        yield _ok(f"{path} has {rows:,} outcomes, {qualifying:,} meet: {config.qualify.where}")
        yield from _turn_rewards(config, path, sessions, rewarded)


def _turn_rewards(config: Config, path: Path | Server, sessions: int, rewarded: int) -> Iterator[DoctorFinding]:
    turns = config.records.turn_rules
    if turns is None:
        return
    what = f"{rewarded:,} of {counted(sessions, 'session')} that qualify have rewards of the type {turns.type}"
    if rewarded:
        yield _ok(what)
    else:
        remedy = f"see which there are: {_shell(path)} 'SELECT reward_type, count(*) FROM event_rewards GROUP BY 1'"
        yield _warning(what, f"set records.reward_type; {remedy}")


def _shell(path: Path | Server) -> str:
    return f"sqlite3 '{path}'" if isinstance(path, Path) else f"turso db shell '{path}'"


def _conversations(config: Config) -> Iterator[DoctorFinding]:
    path = locate(config.source.database, config.source.token)
    if config.source.conversations is From.SHARDS or (isinstance(path, Path) and not path.exists()):
        return
    if isinstance(path, Path):
        with open_for_batch(path, 1.0) as db:
            found = Conversations(FilePages(db, path)).any()
    else:
        with closing(RemotePages(path)) as pages:
            found = Conversations(pages).any()
    if found:
        yield _ok(f"{path} holds conversations")
    else:
        yield _warning(
            f"{path} has no messages to take conversations from",
            'they come with the first rollout; else: source.conversations = "shards"',
        )


async def _count_outcomes(config: Config) -> tuple[int, int, int, int]:
    """Return the numbers of outcomes, of those that qualify, of their sessions, and of those with event rewards.

    The last two are 0 unless the record rules read event rewards.
    """
    source, turns = config.source, config.records.turn_rules
    poller = OutcomePoller(
        source.database,
        config.qualify.where,
        SystemClock(),
        token=source.token,
        turns=turns,
        objective=source.objective,
    )
    rows = qualifying = 0
    has_rewards: dict[str, bool] = {}
    try:
        while not poller.caught_up:
            page = await poller.poll()
            rows += len(page)
            qualifying += sum(row.qualifies for row in page)
            has_rewards |= {one.session: bool(one.rewards) for one in poller.rewards}
    finally:
        await poller.close()
    return rows, qualifying, len(has_rewards), sum(has_rewards.values())


def _matches(config: Config, shards: Sequence[FoundShard]) -> Iterator[DoctorFinding]:
    path = locate(config.source.database, config.source.token)
    sessions = {session for found in islice(shards, _SAMPLED) if (session := _session(config, found))}
    if not sessions or (isinstance(path, Path) and not path.exists()):
        return
    try:
        found = _scored(path, sessions) if isinstance(path, Path) else _scored_there(path, sessions)
    except sqlite3.Error as error:
        yield _problem(f"{path} cannot be asked for sessions: {error}", "see the finding above")
        return
    level = Level.OK if found == len(sessions) else Level.WARNING if found else Level.PROBLEM
    remedy = (
        ""
        if found
        else "shards and database are of different runs, or the run ids differ: see `streamer explain SHARD`"
    )
    yield DoctorFinding(level, f"{found:,} of {len(sessions):,} sessions of shards have an outcome", remedy)


def _scored(path: Path, sessions: set[str]) -> int:
    """Return the number of sessions that have an outcome in a file."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as db:
        statement = "SELECT 1 FROM outcome_rewards WHERE session_id = ? LIMIT 1"
        return sum(db.execute(statement, (session,)).fetchone() is not None for session in sessions)


def _scored_there(server: Server, sessions: set[str]) -> int:
    """Return the number of sessions that have an outcome on a server, by one statement."""
    statement = (
        "SELECT count(DISTINCT session_id) FROM outcome_rewards WHERE session_id IN (SELECT value FROM json_each(?))"
    )
    with closing(RemotePages(server)) as pages:
        rows, _ = pages.page(statement, (json.dumps(sorted(sessions)),), lambda _: 0)
    return int(rows[0][0])


def _session(config: Config, found: FoundShard) -> str | None:
    try:
        with open(config.source.shards / found.path, "rb") as shard:
            return layouts.read(shard.readline(_FIRST_LINE), path_text(found.path)).session
    except (OSError, MalformedError):
        return None


def _ledger(config: Config) -> Iterator[DoctorFinding]:
    seen = snapshot(config.dataset.path, config.dataset.ledger)
    late = seen.reasons.get("waiting", {}).get(AFTER_LAST_OUTCOME, 0)
    if late:
        yield _warning(
            f"{late:,} waiting lines are younger than every outcome of their session",
            'normal while rollouts of a repeated run id go on; else timestamps are not UTC: set join.rule = "max"',
        )
    size = _size(config.dataset.path)
    if size < seen.dataset_bytes:
        yield _problem(
            f"{config.dataset.path} holds {size:,} bytes, its ledger has committed {seen.dataset_bytes:,}",
            f"bring the file back, or go on with what is there: {way_out(config.dataset.ledger)}",
        )
    dead = seen.counts["dead_lettered"]
    if dead:
        yield _warning(
            f"{counted(dead, 'line')} could not be taken",
            f"jq -r .reason '{config.dataset.path}.dead.jsonl' | sort | uniq -c",
        )


def _size(dataset: Path) -> int:
    """Return the bytes of all files of a dataset; 0 if there are none."""
    try:
        with open_dataset(dataset) as files:
            return files.length
    except FileNotFoundError:
        return 0


def _notifications(config: Config) -> Iterator[DoctorFinding]:
    source = config.source
    place = source.shards if source.reads_shards else locate(source.database)
    if not isinstance(place, Path):
        return
    watched = place if source.reads_shards else place.parent
    kind = _file_system(watched)
    if kind in _REMOTE_TYPES:
        yield _warning(
            f"{watched} is on {kind}: changes made elsewhere are not notified",
            "set source.force_polling = true, or leave it to the timed scan (source.scan_interval)",
        )
        return
    folder = config.dataset.path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    if anyio.run(_is_notified, folder):
        yield _ok(f"notifications of changes arrive (tried in {folder})")
    else:
        yield _warning(
            f"no notification of a change arrived in {folder}",
            "set source.force_polling = true",
        )


async def _is_notified(folder: Path) -> bool:
    with (
        anyio.move_on_after(_NOTIFY_SECONDS),
        tempfile.TemporaryDirectory(dir=folder, prefix=".streamer-doctor-") as place,
    ):
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_touching, Path(place) / "probe", stop)
            async for _ in awatch(place, stop_event=stop, step=20, debounce=50, rust_timeout=500):
                stop.set()
                return True
    return False


async def _keep_touching(file: Path, stop: anyio.Event) -> None:
    """Change a file again and again, because the moment at which the watch begins is unknown."""
    while not stop.is_set():
        await anyio.Path(file).write_text("probe")
        await anyio.sleep(0.05)


def _file_system(folder: Path) -> str:
    """Return the type of the file system of ``folder``, or an empty text if it is unknown."""
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as table:
            mounts = [line.split()[1:3] for line in table]
    except OSError:
        return ""
    place = os.path.realpath(folder)
    holding = [(len(at), kind) for at, kind in mounts if os.path.commonpath([at, place]) == at]
    return max(holding, default=(0, ""))[1]


def _watch_limits(config: Config) -> Iterator[DoctorFinding]:
    try:
        with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as file:
            limit = int(file.read())
    except (OSError, ValueError):
        return
    folders = sum(1 for _ in os.walk(config.source.shards))
    if folders > limit // 2:
        yield _warning(
            f"{folders:,} folders below the shard folder, {limit:,} watches allowed for each user",
            f"sudo sysctl fs.inotify.max_user_watches={4 * folders}",
        )
    else:
        yield _ok(f"{counted(folders, 'folder')} to watch, {limit:,} watches allowed")


def _fleet(config: Config) -> Iterator[DoctorFinding]:
    names = Names(config.fleet.prefix, config.fleet.dataset)

    async def look() -> Stream:
        async with connected(config.fleet, "streamer doctor") as link:
            return await stream_of(link, names)

    stream = anyio.run(look)
    check_dedup(stream, names, config.dedup.by)
    yield _ok(f"the stream {names.stream} is there, with {counted(stream.partitions, 'bucket')}")


def _near(config: Config) -> Iterator[DoctorFinding]:
    if config.near.is_on:
        Signer(config.near)
        yield _ok("all that finds near-duplicates is installed")


def _room(config: Config) -> Iterator[DoctorFinding]:
    for name, file in (("dataset", config.dataset.path), ("ledger", config.dataset.ledger)):
        folder = next(parent for parent in file.absolute().parents if parent.is_dir())
        if not os.access(folder, os.W_OK):
            yield _problem(f"the folder of the {name}, {folder}, cannot be written", "see its rights")
        free = shutil.disk_usage(folder).free
        level, remedy = (
            (Level.OK, "") if free > _LITTLE_ROOM else (Level.WARNING, "make room: the daemon waits when it is full")
        )
        yield DoctorFinding(level, f"{free / 1e9:,.1f} GB free for the {name} in {folder}", remedy)


def _lock(config: Config) -> Iterator[DoctorFinding]:
    who = holder(lock_file(config.dataset.path))
    yield _ok(f"the dataset is held by a daemon: {who}" if who else "no daemon holds the dataset")
