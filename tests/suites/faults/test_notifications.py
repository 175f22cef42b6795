"""A folder that does not say what happens in it, that goes and comes, and that holds odd things (case 10).

Rule 6: notifications are hints, a timed scan is the truth.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from streamer.base.events import FailureBegan, NotificationsLost
from streamer.daemon.daemon import Daemon
from tests.helpers.producer import (
    accounts,
    add_outcome,
    conversations,
    jsonl,
    make_traces,
    messages,
    records,
    settings,
    work_off,
)
from tests.suites.faults.process import Executable, eventually, lines, running, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from anyio.abc import TaskGroup

    from streamer.base.events import Event
    from streamer.config import Config


class Deaf(Daemon):
    """A daemon that is never told of a change: a network file system, or a kernel without free watches."""

    def _watch(self, tasks: TaskGroup) -> None:
        """Watch nothing."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return the settings of a daemon that looks around often, with an outcome for every record of ``run``."""
    (tmp_path / "shards").mkdir()
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    return often(settings(tmp_path), scan_interval=0.05)


def often(config: Config, **source: Any) -> Config:
    """Return the settings with others for the source."""
    return msgspec.structs.replace(config, source=msgspec.structs.replace(config.source, **source))


def values(text: str, count: int = 3) -> list[dict[str, Any]]:
    """Return so many records."""
    return [messages("run", turn, f"{text}{turn}") for turn in range(count)]


def during(config: Config, test: Callable[[list[Event]], Awaitable[None]], kind: type[Daemon] = Daemon) -> None:
    """Run a test beside a daemon."""

    async def main() -> None:
        async with running(config, kind=kind) as told:
            await test(told)

    anyio.run(main)


async def arrived(config: Config, count: int) -> None:
    """Wait for so many lines in the dataset."""
    await soon(lambda: lines(config.dataset.path) >= count, f"{count} lines do not arrive")


def test_without_a_single_notification_everything_arrives(config: Config) -> None:
    """New shards, new lines, new sub-folders, renamed shards, new outcomes and corrected ones."""

    async def test(_callbacks: list[Event]) -> None:
        shards = config.source.shards
        (shards / "sft_run.jsonl").write_bytes(jsonl(*values("a")))
        await arrived(config, 3)
        with (shards / "sft_run.jsonl").open("ab") as file:
            file.write(jsonl(*values("b")))
        await arrived(config, 6)
        (shards / "sub").mkdir()
        (shards / "sft_run.jsonl").rename(shards / "sub" / "x.jsonl")
        with (shards / "sub" / "x.jsonl").open("ab") as file:
            file.write(jsonl(*[messages("late", turn, f"c{turn}") for turn in range(3)]))
        add_outcome(shards.parent / "traces.db", "late", 1, 9)
        await arrived(config, 9)

    during(config, test, Deaf)
    expected = [*values("a"), *values("b"), *[messages("late", turn, f"c{turn}") for turn in range(3)]]
    assert conversations(records(config)) == conversations(expected)
    assert accounts(config).counts["duplicate"] == 0


def test_without_a_single_notification_a_database_in_a_journal_of_its_own_is_read(config: Config) -> None:
    """In WAL mode the file itself may not change for hours."""
    traces = config.source.shards.parent / "wal.db"
    make_traces(traces, wal=True)
    (config.source.shards / "sft_run.jsonl").write_bytes(jsonl(*values("a")))

    async def test(_callbacks: list[Event]) -> None:
        add_outcome(traces, "run", 1, 9)
        await arrived(config, 3)

    during(often(config, database=str(traces)), test, Deaf)


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.mark.skipif(not QUEUE.exists(), reason="the kernel does not say how many notifications it keeps")
def test_more_notifications_than_the_kernel_keeps_lose_no_line(tmp_path: Path, config: Config) -> None:
    """The daemon is stopped while more happens than fits into its queue: the rest is dropped, a folder with it."""
    most = int(QUEUE.read_text())
    if most > 1 << 18:
        pytest.skip(f"{most} notifications would take too long")
    executable = Executable(tmp_path)
    some = values("x", most // 150)
    data = [jsonl(*some[::2]), jsonl(*some[1::2])]
    with executable.daemon() as daemon:
        executable.shard("first.jsonl", messages("run", 0, "before"))
        eventually(lambda: lines(executable.dataset) == 1)
        daemon.send_signal(signal.SIGSTOP)
        eventually(lambda: " T " in Path(f"/proc/{daemon.pid}/stat").read_text())
        with (executable.shards / "a.jsonl").open("ab", 0) as a, (executable.shards / "b.jsonl").open("ab", 0) as b:
            written = 0
            for start in range(len(data[0])):  # by turns, as equal notifications in a row are only one
                written += bool(a.write(data[0][start : start + 1])) + bool(b.write(data[1][start : start + 1]))
            b.write(data[1][start + 1 :])
        assert written > most
        (executable.shards / "new").mkdir()
        executable.shard("new/c.jsonl", messages("run", 0, "new folder"))
        executable.shard("first.jsonl", messages("run", 0, "meanwhile"))
        daemon.send_signal(signal.SIGCONT)
        eventually(lambda: lines(executable.dataset) == len(some) + 3)
        executable.shard("new/c.jsonl", messages("run", 0, "later"))
        eventually(lambda: lines(executable.dataset) == len(some) + 4)
        daemon.terminate()
        assert daemon.wait(timeout=10) == 0
    others = [messages("run", 0, text) for text in ("before", "new folder", "meanwhile", "later")]
    assert conversations(records(config)) == conversations([*some, *others])
    assert accounts(config).counts["duplicate"] == 0


def with_limit(name: str, limit: int) -> list[str]:
    """Return a command that runs another one as a user who has a limit of their own; skip where that is not allowed."""
    under = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        f'echo {limit} > /proc/sys/user/{name} && exec "$@"',
        "sh",
    ]
    try:
        done = subprocess.run([*under, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `unshare` here")
    if done.returncode:
        pytest.skip(f"no user with limits of their own can be made here: {done.stderr.decode().strip()}")
    return under


@pytest.mark.parametrize("limit", [0, 3, 7], ids=lambda limit: f"{limit} watches")
def test_without_enough_watches_everything_arrives_by_the_timed_scan(
    tmp_path: Path, config: Config, limit: int
) -> None:
    """The kernel refuses to watch the folder or some of its sub-folders: that is said once, and costs seconds only."""
    folders = [f"{number}" for number in range(8)]
    executable = Executable(tmp_path, under=with_limit("max_inotify_watches", limit))
    for folder in folders:
        (executable.shards / folder).mkdir()
    with executable.daemon() as daemon:
        for turn in range(3):
            for folder in folders:
                executable.shard(f"{folder}/a.jsonl", messages("run", turn, f"{folder} {turn}"))
            eventually(lambda: lines(executable.dataset) == (turn + 1) * len(folders))  # noqa: B023 - it is asked at once
        eventually(lambda: executable.events("notifications_lost"))
        daemon.terminate()
        assert daemon.wait(timeout=10) == 0
    told = [event["folder"] for event in executable.events("notifications_lost")]
    assert len(told) == len(set(told))
    assert accounts(config).counts["appended"] == 3 * len(folders)


def test_without_a_watcher_everything_arrives_by_the_timed_scan(tmp_path: Path, config: Config) -> None:
    """The kernel has no watcher left for this user, for folder and database alike."""
    executable = Executable(tmp_path, under=with_limit("max_inotify_instances", 0))
    with executable.daemon() as daemon:
        executable.shard("a.jsonl", messages("run", 0, "a"), messages("late", 0, "b"))
        eventually(lambda: lines(executable.dataset) == 1)
        add_outcome(tmp_path / "traces.db", "late", 1, 9)
        eventually(lambda: lines(executable.dataset) == 2)
        eventually(lambda: len(executable.events("notifications_lost")) == 2)
        daemon.terminate()
        assert daemon.wait(timeout=10) == 0
    assert accounts(config).counts["appended"] == 2


def test_a_shard_folder_that_is_deleted_and_made_again_goes_on(config: Config) -> None:
    """Said once, waited for; what was waiting in it is waiting still, and what is new arrives."""
    shards = config.source.shards
    (shards / "sft_run.jsonl").write_bytes(jsonl(*values("a"), messages("late", 0, "late")))

    async def test(told: list[Event]) -> None:
        await arrived(config, 3)
        shutil.rmtree(shards)
        await soon(lambda: any(isinstance(event, FailureBegan) for event in told))
        shards.mkdir()
        (shards / "sft_run.jsonl").write_bytes(jsonl(*values("b")))
        await arrived(config, 6)
        (shards / "sft_other.jsonl").write_bytes(jsonl(*values("c")))
        await arrived(config, 9)
        assert [event.op for event in told if isinstance(event, FailureBegan)] == ["list the shard folder"]

    during(config, test)
    assert conversations(records(config)) == conversations([*values("a"), *values("b"), *values("c")])
    accounts(config)


def test_a_shard_folder_that_is_moved_away_and_replaced_is_noticed(config: Config) -> None:
    """The watch goes with the old folder: that is said, and the new one is read all the same."""
    shards = config.source.shards

    async def test(told: list[Event]) -> None:
        (shards / "sft_run.jsonl").write_bytes(jsonl(*values("a")))
        await arrived(config, 3)
        shards.rename(shards.with_name("old"))
        shards.mkdir()
        (shards / "sft_run.jsonl").write_bytes(jsonl(*values("b")))
        await arrived(config, 6)
        (shards / "sft_run.jsonl").write_bytes(jsonl(*values("b"), *values("c")))
        await arrived(config, 9)
        await soon(lambda: any(isinstance(event, NotificationsLost) for event in told))

    during(config, test)
    assert conversations(records(config)) == conversations([*values("a"), *values("b"), *values("c")])


def test_a_name_that_cannot_be_decoded_is_a_shard_like_others(config: Config) -> None:
    """Under a running daemon, in a folder of such a name, too; the dataset says it in readable letters."""
    shards = os.fsencode(config.source.shards)

    async def test(_callbacks: list[Event]) -> None:
        os.mkdir(shards + b"/\xfe")
        for number, name in enumerate((b"/\xff\xfe.jsonl", b"/\xfe/new\nline \x1b[31m.jsonl", b"/plain.jsonl")):
            with open(shards + name, "wb") as file:  # noqa: ASYNC230
                file.write(jsonl(*values(f"{number}-")))
            await arrived(config, 3 * (number + 1))

    during(config, test)
    shown = {record["metadata"]["shard"] for record in records(config)}
    assert shown == {"\\xff\\xfe.jsonl", "\\xfe/new\nline \x1b[31m.jsonl", "plain.jsonl"}


@pytest.mark.parametrize("follow", [True, False], ids=["links followed", "links not followed"])
def test_links_that_go_in_circles_end_nowhere(tmp_path: Path, config: Config, *, follow: bool) -> None:
    """To the folder itself, to each other, to a folder above: each shard is found once, by the way without a circle."""
    shards = config.source.shards
    (shards / "sub").mkdir()
    (shards / "loop").symlink_to(shards)
    (shards / "sub" / "up").symlink_to("..")
    (shards / "x.jsonl").symlink_to("y.jsonl")
    (shards / "y.jsonl").symlink_to("x.jsonl")
    (shards / "self").symlink_to("self")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jsonl").write_bytes(jsonl(*values("linked")))
    (shards / "there").symlink_to(tmp_path / "elsewhere")
    config = often(config, follow_symlinks=follow)

    async def test(_callbacks: list[Event]) -> None:
        (shards / "sub" / "run.jsonl").write_bytes(jsonl(*values("a")))
        await arrived(config, 6 if follow else 3)

    during(config, test)
    expected = [*values("a"), *(values("linked") if follow else [])]
    assert conversations(records(config)) == conversations(expected)
    work_off(config)
    seen = accounts(config)
    assert (seen.shards, seen.counts["duplicate"]) == (2 if follow else 1, 0)


def test_a_fifo_a_device_a_socket_and_a_folder_with_the_name_of_a_shard_hold_no_one_up(config: Config) -> None:
    """None of them is opened: a FIFO would hang, and /dev/zero never ends."""
    shards = config.source.shards
    os.mkfifo(shards / "a.jsonl")
    (shards / "b.jsonl").mkdir()
    if os.geteuid() == 0:
        os.mknod(shards / "c.jsonl", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod(shards / "d.jsonl", stat.S_IFSOCK | 0o600)

    async def test(_callbacks: list[Event]) -> None:
        (shards / "z.jsonl").write_bytes(jsonl(*values("a")))
        await arrived(config, 3)
        (shards / "z.jsonl").unlink()
        os.mkfifo(shards / "z.jsonl")  # where a shard was
        (shards / "b.jsonl" / "deep.jsonl").write_bytes(jsonl(*values("b")))
        await arrived(config, 6)

    during(config, test)
    assert accounts(config).read == 6
