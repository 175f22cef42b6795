"""Two daemons for one dataset, as executables (case 9)."""

from __future__ import annotations

import signal
import stat
from typing import TYPE_CHECKING

from streamer.errors import LockedError
from tests.faults.process import Executable, eventually, lines
from tests.producer import accounts, add_outcome, conversations, make_traces, messages, records, settings

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_daemon_does_nothing_and_the_first_goes_on(tmp_path: Path) -> None:
    """Rule 9: under any name of the dataset; a --once pass is a daemon, too; a killed one holds nothing."""
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    executable = Executable(tmp_path)
    values = [messages("run", turn, f"{turn}") for turn in range(6)]
    with executable.daemon() as first:
        executable.shard("a.jsonl", *values[:2])
        eventually(lambda: lines(executable.dataset) == 2)
        (tmp_path / "alias.jsonl").symlink_to("out/good.jsonl")
        for arguments in ((), ("--once",), ("--dataset", "alias.jsonl"), ("--dataset", "out/../out/good.jsonl")):
            assert executable.start(*arguments).wait(timeout=20) == LockedError.exit_code
            assert f"pid {first.pid} " in executable.log.read_text()
        executable.shard("a.jsonl", *values[2:4])
        eventually(lambda: lines(executable.dataset) == 4)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with executable.daemon() as second:
        executable.shard("a.jsonl", *values[4:])
        eventually(lambda: lines(executable.dataset) == 6)
        second.terminate()
        assert second.wait(timeout=10) == 0
    config = settings(tmp_path)
    assert conversations(records(config)) == conversations(values)
    assert accounts(config).adopted == 0
    assert stat.S_IMODE((tmp_path / "out" / "good.jsonl.lock").stat().st_mode) == 0o640
