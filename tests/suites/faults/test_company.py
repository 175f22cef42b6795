"""Two daemons for one dataset, as executables (case 9)."""

from __future__ import annotations

import signal
import stat
from typing import TYPE_CHECKING

import pytest

from streamer.base.errors import LockedError
from tests.helpers.producer import accounts, add_outcome, conversations, make_traces, messages, records, settings
from tests.suites.faults.process import Executable, eventually, lines

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


@pytest.mark.parametrize("arguments", [(), ("--once",)], ids=["daemons", "single passes"])
def test_of_daemons_that_start_at_the_same_time_one_works_and_the_others_say_who(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Nothing is begun yet: no lock file, no ledger, no dataset."""
    add_outcome(make_traces(tmp_path / "traces.db"), "run", 1, 9)
    executable = Executable(tmp_path)
    values = [messages("run", turn, f"{turn}") for turn in range(40)]
    executable.shard("a.jsonl", *values)
    several = [executable.start(*arguments) for _ in range(4)]
    if not arguments:
        eventually(lambda: sum(process.poll() is not None for process in several) == 3)
        eventually(lambda: lines(executable.dataset) == len(values))
    for process in several:
        if process.poll() is None and not arguments:
            process.terminate()
    codes = sorted(process.wait(timeout=20) for process in several)
    assert set(codes) <= {0, LockedError.exit_code}
    assert codes[0] == 0
    assert arguments or codes[1] == LockedError.exit_code
    assert conversations(records(settings(tmp_path))) == conversations(values)
    assert accounts(settings(tmp_path)).adopted == 0
