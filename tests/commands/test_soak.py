"""The command ``streamer soak``, and its validator, which must find every fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from streamer.commands.cli import COMMANDS
from streamer.commands.simulation.trace import TraceWriter
from streamer.commands.soak import oracle, validate
from streamer.commands.soak.agenda import Agenda
from streamer.commands.soak.chaos import Chaos
from streamer.commands.soak.journal import Journals, SoakJournal
from streamer.commands.soak.problem import BrokenPromise
from streamer.commands.soak.producer import SoakProducer
from streamer.commands.soak.report import SoakReport, as_text
from streamer.commands.soak.subjects import Children, DaemonUnderTest, SoakSource
from streamer.commands.soak.watcher import Watcher
from streamer.commands.soak.workspace import SoakWorkspace
from tests.helpers.processes import mentioning, wait_for
from tests.helpers.producer import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.commands.soak.agenda import Script

COMMAND = [sys.executable, "-m", "streamer"]
SECONDS = 60


# -- the command -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_short_soak_is_clean_and_says_what_it_injected(tmp_path: Path) -> None:
    """Exit code 0, mishaps that really happened, records that really came through, and no file left behind."""
    done = _soak("--minutes", "0.12", "--seed", "7", "--folder", str(tmp_path), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["clean"]
    assert report["problems"] == []
    assert report["seed"] == 7
    assert min(report["injected"].values()) > 0
    assert any(what.startswith(("daemon", "ledger", "half", "second", "trace")) for what in report["injected"])
    assert report["injected"]["rollouts"] > 20
    assert report["came_out"]["conversations that must be in: in"] > 20
    assert report["came_out"]["conversations that must not be in: out"] > 0
    assert report["came_out"]["lines in the dataset"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "settling" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_child_survives_a_soak(tmp_path: Path, ending: signal.Signals) -> None:
    """However a soak ends, its daemon and its producer end with it."""
    with subprocess.Popen(
        [*COMMAND, "soak", "--minutes", "5", "--folder", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as soak:
        # Chaos may be about to restart either of them.
        wait_for(lambda: any(tmp_path.glob("*/journals/producer-*")) and len(mentioning(tmp_path)) >= 3)
        soak.send_signal(ending)
        assert soak.wait(SECONDS) == (130 if ending is signal.SIGINT else -ending)
    wait_for(lambda: not mentioning(tmp_path))


@pytest.mark.slow
def test_a_broken_promise_ends_the_soak_and_is_reported(tmp_path: Path) -> None:
    """A truncated dataset: exit code 1, the promise, the file and the seed are printed, and every file is kept."""
    command = [*COMMAND, "soak", "--minutes", "5", "--seed", "3", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as soak:
        wait_for(lambda: _lines(tmp_path) > 5)
        (dataset,) = tmp_path.glob("*/good.jsonl")
        os.truncate(dataset, 0)
        stdout, _ = soak.communicate(timeout=SECONDS)
    assert soak.returncode == 1, stdout
    assert "BROKEN" in stdout
    assert str(dataset) in stdout
    assert "--seed 3" in stdout
    assert dataset.exists()
    assert not mentioning(tmp_path)


def test_help_has_an_example() -> None:
    """The command is registered, and its help shows how it is called."""
    assert "soak" in COMMANDS
    done = subprocess.run([*COMMAND, "soak", "--help"], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "Example: streamer soak --minutes" in " ".join(done.stdout.split())


def test_a_report_cannot_steer_the_terminal() -> None:
    """A file name may hold anything; a problem that quotes it stays on its line."""
    problem = BrokenPromise("missing", "a\x1b[2J\nb", "first\nsecond \x9b line")
    report = SoakReport(False, 1, 0.5, "/tmp/\x1b]0;x", {}, {}, 0.0, {"missing": 1}, [problem])  # noqa: FBT003
    lines = list(as_text(report))
    assert all(line.isprintable() for line in lines)
    assert any("a\\x1b[2J\\nb" in line for line in lines)


# -- chaos -------------------------------------------------------------------------------------------------


class IdleDaemon(DaemonUnderTest):
    """A daemon that is no process; it writes down what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def start(self) -> None:
        """Start."""
        self.done.append("start")

    def kill(self) -> None:
        """Kill."""
        self.done.append("kill")

    def _does(self, what: str) -> Script:
        self.done.append(what)
        yield 0.0

    def up(self) -> Script:
        """Come up."""
        return self._does("up")

    def stop(self) -> Script:
        """Stop."""
        return self._does("stop")

    def pause(self, seconds: float) -> Script:
        """Pause."""
        return self._does(f"pause {seconds > 0}")

    def reload(self) -> Script:
        """Reload."""
        return self._does("reload")

    def second(self) -> Script:
        """Start a second one."""
        return self._does("second")


class IdleSource(SoakSource):
    """A producer that is no process."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def start(self) -> None:
        """Start."""
        self.done.append("start")

    def kill(self) -> None:
        """Kill."""
        self.done.append("kill")


def test_every_kind_of_mishap_happens_and_is_noted(workspace: SoakWorkspace) -> None:
    """Ledgers and shards are really moved about; whatever happens, the daemon runs in the end."""
    daemon, source = IdleDaemon(), IdleSource()
    shards = {path.name for path in workspace.shards.rglob("*.jsonl")}
    dataset = workspace.dataset.read_bytes()
    with SoakJournal(workspace.journals, "chaos") as journal:
        chaos = Chaos(workspace, Random(1), journal, daemon, source)
        for _ in range(22):  # one deck
            deque(chaos.act(ledger_too=True), maxlen=0)
    assert {*journal.counts} == {
        "daemon killed", "daemon killed while it started", "daemon stopped and started", "daemon paused",
        "daemon reconfigured (SIGHUP)", "second daemon started", "ledger deleted", "ledger copied away",
        "older ledger restored", "half a line appended to the dataset", "trace database locked", "producer killed",
        "shards renamed", "shards copied", "shards touched",
    }  # fmt: skip
    assert daemon.done.count("start") == daemon.done.count("kill") + daemon.done.count("stop")
    assert source.done == ["kill", "start"]
    assert {path.name for path in workspace.shards.rglob("*.jsonl")} - shards
    torn = workspace.dataset.read_bytes()
    assert torn.startswith(dataset)
    assert not torn.endswith(b"\n")


def test_the_last_part_of_a_soak_is_without_mishaps_of_the_ledger(workspace: SoakWorkspace) -> None:
    """Reading everything again could repair a mistake."""
    with SoakJournal(workspace.journals, "chaos") as journal:
        chaos = Chaos(workspace, Random(2), journal, IdleDaemon(), IdleSource())
        for _ in range(44):
            deque(chaos.act(ledger_too=False), maxlen=0)
    assert not {"ledger deleted", "older ledger restored"} & {*journal.counts}


@pytest.mark.slow
def test_a_process_that_ends_by_itself_or_with_a_wrong_status_breaks_a_promise(tmp_path: Path) -> None:
    """The first daemon fails at once, as there is nothing to run; it is no daemon that a second one could refuse."""
    workspace = SoakWorkspace(tmp_path)
    workspace.make()
    said: list[BrokenPromise] = []
    with Children(workspace.logs) as children:
        source = SoakSource(workspace, -1, children, said.append)
        source._start(["streamer", "no-such-command"])
        wait_for(lambda: source._child is None or source._child.status is not None)
        source.check()
        source.check()
        deque(source.stop(), maxlen=0)
        deque(source._await_end(children.start("other", ["streamer", "--version"]), "refuse", 4), maxlen=0)
    ended, exited = said
    assert (ended.kind, exited.kind) == ("producer_ended", "producer_exit")
    assert "with status 2" in ended.what
    assert "but with 0" in exited.what


# -- the validator -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> SoakWorkspace:
    """Return the files of a producer that ran for five seconds of its own time, and of a daemon after it."""
    workspace = SoakWorkspace(tmp_path_factory.mktemp("soak"))
    workspace.make()
    clock = FakeClock()
    agenda = Agenda(clock.monotonic)
    with SoakJournal(workspace.journals, "producer-00000") as journal, TraceWriter(workspace.database, "soak") as trace:
        agenda.add(SoakProducer(workspace.shards, 7, 0, journal, trace, agenda).rollouts())
        while clock.passed < 5:
            clock.advance(agenda.act())
    _work_off(workspace)
    return workspace


@pytest.fixture
def workspace(soaked: SoakWorkspace, tmp_path: Path) -> SoakWorkspace:
    """Return a copy that a test may damage."""
    return SoakWorkspace(Path(shutil.copytree(soaked.folder, tmp_path / "soak")))


def _work_off(workspace: SoakWorkspace) -> None:
    workspace.config.write_text("[source]\nmax_line_bytes = 1048576\n", "utf-8")
    subprocess.run(
        [*COMMAND, "run", "--once", "--config", str(workspace.config), *workspace.options()],
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )


def _kinds(workspace: SoakWorkspace) -> Counter[str]:
    """Return the validator's findings, without those of the ledger: it never agrees with a doctored dataset."""
    found = validate.validate(workspace, oracle.expect(workspace)).problems
    return Counter(problem.kind for problem in found if problem.kind not in ("accounts", "verify"))


@pytest.mark.slow
def test_an_honest_dataset_has_no_problem(workspace: SoakWorkspace) -> None:
    """The validator finds nothing without a fault, although every kind of record is there."""
    verdict = validate.validate(workspace, oracle.expect(workspace))
    assert verdict.problems == []
    for fate in ("must be in: in", "must not be in: out"):
        assert verdict.counts[f"conversations that {fate}"] > 20
    assert verdict.counts["accounts: dead_lettered"] > 0
    assert verdict.counts["accounts: duplicate"] > 0


def test_a_line_that_was_removed_is_missing(workspace: SoakWorkspace) -> None:
    """Every required record must be in the dataset."""
    _doctor(workspace, lambda lines: lines[:3] + lines[4:])
    assert _kinds(workspace) == {"missing": 1}


def test_a_line_that_was_doubled_is_twice(workspace: SoakWorkspace) -> None:
    """Each record must be in the dataset exactly once."""
    _doctor(workspace, lambda lines: [*lines, lines[5]])
    assert _kinds(workspace) == {"twice": 1}


@pytest.mark.parametrize(
    ("alter", "kind"),
    [
        (lambda value: value["messages"][-1].update(content="something else"), "altered"),
        (lambda value: value["messages"].pop(0), "altered"),
        (lambda value: value["metadata"].update(run_id="another"), "altered"),
        (lambda value: value["metadata"].update(total_reward=99), "wrong_reward"),
        (lambda value: value["metadata"].update(shard="elsewhere.jsonl"), "wrong_shard"),
    ],
)
def test_a_line_that_was_altered_is_noticed(
    workspace: SoakWorkspace, alter: Callable[[Any], object], kind: str
) -> None:
    """A record must come out as the producer wrote it, with its outcome."""

    def altered(line: bytes) -> bytes:
        value = json.loads(line)
        alter(value)
        return json.dumps(value).encode() + b"\n"

    _doctor(workspace, lambda lines: [altered(lines[0]), *lines[1:]])
    assert _kinds(workspace) == {kind: 1}


def test_a_record_that_never_qualified_is_noticed(workspace: SoakWorkspace) -> None:
    """A record of a rollout with reward 0 must not be in the dataset."""
    expected = oracle.expect(workspace)
    never = {mark for mark, records in expected.records.items() if not any(record.rewards for record in records)}
    _doctor(workspace, lambda lines: [*lines, _as_dataset_line(workspace, never)])
    assert _kinds(workspace) == {"never_qualified": 1}


def test_a_foreign_line_and_a_torn_one_are_noticed(workspace: SoakWorkspace) -> None:
    """The dataset must hold whole records and nothing else."""
    _doctor(workspace, lambda lines: [*lines, b'{"hello": 1}\n', b"\n", b'{"messages": ['])
    assert _kinds(workspace) == {"foreign": 2, "unterminated": 1}


def test_counts_that_disagree_with_the_dataset_are_noticed(workspace: SoakWorkspace) -> None:
    """A line that the ledger does not have must be found."""
    _doctor(workspace, lambda lines: [*lines, lines[0]])
    problems = validate.validate(workspace, oracle.expect(workspace)).problems
    assert {problem.kind for problem in problems} == {"twice", "accounts", "verify"}


def test_a_dead_letter_that_is_gone_or_of_a_good_line_is_noticed(workspace: SoakWorkspace) -> None:
    """Each bad line must have a dead letter with a reason, and no good line may have one."""
    first, *rest = workspace.dead_letters.read_bytes().splitlines(keepends=True)
    workspace.dead_letters.write_bytes(b"".join(rest) + first.replace(b"soak-bad", b"soak"))
    assert _kinds(workspace) == {"dead_letters": 2}
    workspace.dead_letters.write_bytes(b"".join(rest) + first.replace(b'"reason"', b'"because"'))
    assert _kinds(workspace) == {"dead_letters": 1}


def test_a_line_that_was_never_read_is_noticed(workspace: SoakWorkspace) -> None:
    """A line added to a shard after the daemon has ended must be found."""
    shard = next(path for path in sorted(workspace.shards.glob("*.jsonl")) if path.read_bytes().endswith(b"\n"))
    shard.write_bytes(shard.read_bytes() + shard.read_bytes().splitlines(keepends=True)[0])
    assert _kinds(workspace) == {"lines_lost": 1}


def test_a_shard_that_does_not_hold_what_was_written_is_noticed(workspace: SoakWorkspace) -> None:
    """A fault of the file system must be told apart from a fault of the daemon."""
    shard = next(path for path in sorted(workspace.shards.glob("*.jsonl")) if path.read_bytes().endswith(b"\n"))
    shard.write_bytes(shard.read_bytes() + b'{"soak": 1}\n')
    assert _kinds(workspace)["shards_changed"] == 1


def _doctor(workspace: SoakWorkspace, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = workspace.dataset.read_bytes().splitlines(keepends=True)
    workspace.dataset.write_bytes(b"".join(change(lines)))


def _as_dataset_line(workspace: SoakWorkspace, marks: set[str]) -> bytes:
    """Return a line of a shard as the daemon would have written it."""
    for shard in sorted(workspace.shards.glob("run-*.jsonl")):
        for line in shard.read_bytes().splitlines():
            if any(mark.encode() in line for mark in marks) and b'"dialogue_text"' in line:
                value = json.loads(line)
                reply = {key: part for key, part in value["assistant"].items() if key[-4:] not in ("text", "mage")}
                messages = [*value["dialogue"], {"role": "assistant", **{k: v for k, v in reply.items() if v != []}}]
                metadata = {"run_id": value["run_id"], "turn": value["turn"], "total_reward": 1, "shard": shard.name}
                return json.dumps({"messages": messages, "metadata": metadata}).encode() + b"\n"
    raise AssertionError("every rollout qualified")


# -- the watcher, the journal, the agenda ------------------------------------------------------------------


def _watched(path: Path, change: Callable[[], object]) -> list[str]:
    """Return the findings of a watcher of a file that changes after its first look."""
    problems: list[BrokenPromise] = []
    with Watcher(path, problems.append) as watcher:
        watcher.look()
        change()
        watcher.look()
        watcher.look_at_all()
    return [problem.what for problem in problems]


def test_a_watcher_lets_a_dataset_grow_and_a_torn_tail_be_cut(tmp_path: Path) -> None:
    """Growth and a cut tail are no findings: only whole lines are promised."""
    path = tmp_path / "dataset"
    path.write_bytes(b"one\n" * 600_000 + b"torn")
    assert _watched(path, lambda: path.write_bytes(b"one\n" * 600_000 + b"two\n" * 600_000)) == []


@pytest.mark.parametrize("at", [0, 1_500_000, 2_399_990])
def test_a_watcher_sees_one_changed_byte(tmp_path: Path, at: int) -> None:
    """A changed byte must be found in a full block and in the last one."""
    path = tmp_path / "dataset"
    path.write_bytes(b"one\n" * 600_000)
    (what,) = _watched(path, lambda: path.write_bytes(_with_byte(path.read_bytes(), at)))
    assert "have changed" in what


def _with_byte(data: bytes, at: int) -> bytes:
    return data[:at] + b"X" + data[at + 1 :]


def test_a_watcher_sees_lines_that_went_away(tmp_path: Path) -> None:
    """A shortened, a replaced and a removed file must each be reported once."""
    path = tmp_path / "dataset"
    for change in (lambda: os.truncate(path, 4), lambda: _replace(path), path.unlink):
        path.write_bytes(b"one\ntwo\n")
        assert len(_watched(path, change)) == 1


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


def test_journals_give_whole_entries_once(tmp_path: Path) -> None:
    """An entry that a kill cut off must be ignored: its act had not begun."""
    journals = Journals(tmp_path)
    with SoakJournal(tmp_path, "one") as journal:
        journal.did("this")
        assert len(list(journals.new_entries())) == 1
        journal.did("that", 0)
        journal.did("that", 2)
    with (tmp_path / "one.jsonl").open("ab") as file:
        file.write(b'{"type":"did"')
    assert [repr(entry) for entry in journals.new_entries()] == ["Did(what='that', times=2)"]
    assert list(journals.new_entries()) == []


def test_an_agenda_lets_scripts_act_when_they_are_due() -> None:
    """Each pause must count from the act before it."""
    clock, acts = FakeClock(), list[str]()
    agenda = Agenda(clock.monotonic)

    def script(name: str, pause: float) -> Script:
        for number in range(2):
            acts.append(f"{name}{number}")
            yield pause

    agenda.add(script("a", 2.0))
    agenda.add(script("b", 5.0), 1.0)
    for _ in range(5):
        clock.advance(agenda.act())
    assert acts == ["a0", "b0", "a1", "b1"]


# -- tools -------------------------------------------------------------------------------------------------


def _soak(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "soak", *options], capture_output=True, text=True, timeout=SECONDS, check=False)


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/good.jsonl"))
