"""A producer in full swing, and what has to become of everything it writes: files, rows, and the model.

``must`` are the records that stand in a finished line now and have a good outcome now; ``may`` are those
that ever stood in a finished line and ever could have had a good outcome. Where a producer destroys nothing
the two are the same, and the dataset has to hold exactly them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from streamer.core.records.key import DedupBy
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.turns import Turns
from tests.helpers.producer import dialogue, iso, jsonl, messages
from tests.helpers.traces import add_reward, correct_reward

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

GARBAGE = (
    b"nonsense",
    b"[]",
    b'{"messages": 1}',
    b"\xff\xfe",
    b"\0\0\0",
    b'{"messages": []}',
    b"{" * 3000,
    b"x" * 20_000,
)
BLANK = (b"", b" ", b"\r")
SECONDS = (None, 1, 2, 3)
TURNS = 3
RECORDED = 3
"""Seconds at which all event rewards are written."""

_WORDS = ("snow", "north ✓ ü", "u2028 \u2028 in a string", "🜁", 'quote " back \\ tab \t', "plain")
_ROW = (
    "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)"
    " VALUES (?, ?, 1, 8, ?)"
)


class Record(NamedTuple):
    """What a line says. Equal texts are equal conversations."""

    session: str
    seconds: int | None
    text: str


class Row(NamedTuple):
    """An outcome row."""

    id: int
    session: str
    seconds: int
    reward: int


class Reward(NamedTuple):
    """A row of ``event_rewards``; ``seconds`` is when its event happened, None where there is no such event."""

    id: int
    session: str
    turn: int
    value: int
    seconds: int | None


class Shard:
    """A file of the producer's: what it holds, and what it is still going to write there."""

    def __init__(self, rest: bytes) -> None:
        self.data = b""
        self.rest = rest


def finished(data: bytes) -> list[bytes]:
    """Return the lines of a shard that have their newline, without it."""
    return data.split(b"\n")[:-1]


def blank(line: bytes) -> bool:
    """Say whether a line is none that is counted."""
    return not line.strip()


class World:
    """The folder of a producer, and the trace database beside it.

    Args:
        folder: where ``shards`` and ``traces.db`` are made.
        template: an empty trace database.
        rng: where all chance comes from.
        join: how a record finds its outcome.
        by: what makes two records the same one.
        turns: which turns are wanted; without ``all`` the producer says what they are worth.
        wild: whether anything is ever destroyed.
    """

    def __init__(
        self, folder: Path, template: Path, rng: Random, join: JoinRule, by: DedupBy, turns: Turns, *, wild: bool
    ) -> None:
        self.folder = folder / "shards"
        self.folder.mkdir(parents=True)
        self.traces = folder / "traces.db"
        self._older = folder / "older.db"
        shutil.copyfile(template, self.traces)
        self.shards: dict[str, Shard] = {}
        self.rows: dict[int, Row] = {}
        self.rewards: dict[int, Reward] = {}
        self.must: set[Any] = set()
        self._must: set[Record] = set()
        self.may: set[Any] = set()
        self.wild = wild
        self._rng = rng
        self._join = join
        self._by = by
        self._turns = turns
        self._lines: dict[bytes, Record] = {}
        self._ever_there: set[Record] = set()
        self._ever_good: set[tuple[str, int | None]] = set()
        self._ever_rewarded: set[tuple[str, int]] = set()
        self._torn_sessions: set[str] = set()
        self._sessions = [f"s{number}" for number in range(rng.randint(1, 4))]
        self._names = count()
        self._times = count(1)
        self._texts = count()
        self._backup: tuple[dict[int, Row], dict[int, Reward]] | None = None

    # -- the model -------------------------------------------------------------------------------------

    def identity(self, record: Record) -> Any:
        """Return what has to be in the dataset once."""
        return record if self._by is DedupBy.NONE else record.text

    def identity_of(self, value: dict[str, Any]) -> Any:
        """Return the same of a dataset line."""
        text = value["messages"][1]["content"]
        if self._by is not DedupBy.NONE:
            return text
        times: dict[str | None, int | None] = {iso(second): second for second in range(20)} | {None: None}
        return Record(value["metadata"]["run_id"], times[value["metadata"]["timestamp"]], text)

    def sessions_of(self, identity: Any) -> set[str]:
        """Return the sessions in which a record that has to be in the dataset stands."""
        return {record.session for record in self._must if self.identity(record) == identity}

    def may_go(self, value: dict[str, Any]) -> bool:
        """Say whether a compaction may take a dataset line out: it would not get in now, or the model cannot tell."""
        times: dict[str | None, int | None] = {iso(second): second for second in range(20)} | {None: None}
        about = value["metadata"]
        record = Record(about["run_id"], times[about["timestamp"]], value["messages"][1]["content"])
        return record.session in self._torn_sessions or not self._good(record)

    def counted(self, name: str) -> int:
        """Return how many lines of a shard are to be accounted for."""
        return sum(not blank(line) for line in finished(self.shards[name].data))

    def _settle(self) -> None:
        """Find ``must`` and ``may`` again, after anything changed."""
        present: Counter[Record] = Counter()
        for shard in self.shards.values():
            present.update(self._lines[line] for line in finished(shard.data) if line in self._lines)
        self._ever_there |= set(present)
        for session in self._sessions:
            for seconds in SECONDS:
                row = self._outcome(session, seconds)
                if session in self._torn_sessions or (row is not None and row.reward > 0):
                    self._ever_good.add((session, seconds))
        self._ever_rewarded |= {(row.session, row.turn) for row in self.rewards.values() if row.value}
        self._must = {record for record in present if record.session not in self._torn_sessions and self._good(record)}
        self.must = {self.identity(record) for record in self._must}
        self.may = {
            self.identity(record)
            for record in self._ever_there
            if record[:2] in self._ever_good
            and self._wanted(record, {turn for session, turn in self._ever_rewarded if session == record.session})
        }

    def turn(self, text: str) -> int:
        """Return which turn a record is: equal texts are of one turn."""
        return 0 if self._turns is Turns.ALL else int(text.split(maxsplit=1)[0]) % TURNS

    def _good(self, record: Record) -> bool:
        outcome = self._outcome(record.session, record.seconds)
        if outcome is None or outcome.reward <= 0:
            return False
        theirs = [row for row in self.rewards.values() if row.session == record.session and row.value]
        return self._wanted(record, {row.turn for row in theirs if self._outcome_of(row) == outcome})

    def _wanted(self, record: Record, rewarded: set[int]) -> bool:
        """Say whether a record is of a turn that is wanted, if these are the turns that have a reward."""
        if self._turns is Turns.REWARDED:
            return self.turn(record.text) in rewarded
        return self._turns is Turns.ALL or self.turn(record.text) <= max(rewarded, default=-1)

    def _outcome_of(self, reward: Reward) -> Row | None:
        """Return the outcome of the rollout that a reward belongs to; rows without an event are written at 3 s."""
        if reward.seconds is not None:
            return self._outcome(reward.session, reward.seconds)
        return self._outcome(reward.session, RECORDED) or self._outcome(reward.session, None)

    def _outcome(self, session: str, seconds: int | None) -> Row | None:
        """Return the outcome of what a session did at a time."""
        rows = [row for row in self.rows.values() if row.session == session]
        oldest_first = sorted(rows, key=lambda row: (row.seconds, row.id))
        if not rows:
            return None
        if self._join is JoinRule.MAX:
            return max(rows, key=lambda row: (row.reward, row.seconds, row.id))
        if self._join is JoinRule.FIRST:
            return oldest_first[0]
        if seconds is None:
            return oldest_first[-1]
        return next((row for row in oldest_first if row.seconds >= seconds), None)

    # -- what the producer does ------------------------------------------------------------------------

    def act(self) -> str:
        """Do something, and say what."""
        tame: list[tuple[int, Callable[[], str]]] = [
            (6, self._write), (4, self._go_on), (5, self._score), (1, self._rename), (1, self._copy), (1, self._rewrite),  # noqa: E501
        ]  # fmt: skip
        wild: list[tuple[int, Callable[[], str]]] = [
            (2, self._overwrite), (1, self._cut), (1, self._delete), (2, self._correct), (1, self._back_up),
            (1, self._replace_database), (1, self._splice),
        ]  # fmt: skip
        if self._turns is not Turns.ALL:
            tame.append((5, self._reward))
            wild.append((2, self._correct_reward))
        choices = tame + wild if self.wild else tame
        said = ""
        while not said:
            (action,) = self._rng.choices([action for _, action in choices], [weight for weight, _ in choices])
            said = action()
        self._settle()
        return said

    def _line(self) -> bytes:
        """Return a line without its newline: a new one, one that was there before, or none at all."""
        dice = self._rng.random()
        if dice < 0.07:
            return self._rng.choice(GARBAGE)
        if dice < 0.10:
            return self._rng.choice(BLANK)
        if dice < 0.25 and self._lines:
            return self._rng.choice(list(self._lines))
        if self._rng.random() < 0.1:
            self._sessions.append(f"s{len(self._sessions)}")
        seconds = self._rng.choice(SECONDS)
        text = f"{next(self._texts)} {self._rng.choice(_WORDS)}" + "." * self._rng.choice((0, 0, 0, 5000))
        if dice < 0.35 and self._lines:
            text = self._rng.choice(list(self._lines.values())).text
        record = Record(self._rng.choice(self._sessions), seconds, text)
        make = messages if seconds is None else dialogue
        more: dict[str, Any] = {} if seconds is None else {"seconds": float(seconds)}
        line = jsonl(make(record.session, self.turn(record.text), record.text, **more)).rstrip(b"\n")
        self._lines[line] = record
        return line

    def _new_name(self) -> str:
        number, session = next(self._names), self._rng.choice(self._sessions)
        return self._rng.choice((f"sft_{session}-{number}.jsonl", f"{session}_2026-01-01_00-00-{number:02}.jsonl",
                                 f"sub/{number}.jsonl"))  # fmt: skip

    def _some_name(self) -> str | None:
        return self._rng.choice(list(self.shards)) if self.shards else None

    def _put(self, name: str, data: bytes, *, anew: bool = False) -> None:
        """Make a shard hold ``data``; its time is one that no file had before."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        target = path.with_suffix(".tmp") if anew else path
        with open(target, "r+b" if target.exists() else "wb") as file:
            file.write(data)
            file.truncate()
        target.rename(path)
        self._stamp(path)
        self.shards[name].data = data

    def _stamp(self, path: Path) -> None:
        tick = next(self._times)
        os.utime(path, ns=(tick, tick))

    def _write(self) -> str:
        """Begin a shard: all of it, or the rest later."""
        name = self._new_name()
        data = b"".join(self._line() + b"\n" for _ in range(self._rng.randint(1, 8)))
        cut = self._rng.choice((len(data), self._rng.randint(0, len(data))))
        self.shards[name] = Shard(data[cut:])
        self._put(name, data[:cut])
        return f"write {name}: {cut} of {len(data)} bytes"

    def _go_on(self) -> str:
        """Write more of a shard, up to anywhere."""
        name = self._some_name()
        if name is None:
            return ""
        shard = self.shards[name]
        torn = bool(shard.data) and not shard.data.endswith(b"\n")
        rest = shard.rest or b"\n" * torn + self._line() + b"\n"
        cut = self._rng.choice((len(rest), self._rng.randint(0, len(rest))))
        shard.rest = rest[cut:]
        self._put(name, shard.data + rest[:cut])
        return f"append {cut} bytes to {name}, {len(shard.rest)} to come"

    def _rename(self) -> str:
        name, to = self._some_name(), self._new_name()
        if name is None:
            return ""
        (self.folder / to).parent.mkdir(exist_ok=True)
        (self.folder / name).rename(self.folder / to)
        self.shards[to] = self.shards.pop(name)
        return f"rename {name} to {to}"

    def _copy(self) -> str:
        name, to = self._some_name(), self._new_name()
        if name is None:
            return ""
        self.shards[to] = Shard(self.shards[name].rest)
        self._put(to, self.shards[name].data)
        return f"copy {name} to {to}"

    def _rewrite(self) -> str:
        """Write the same file anew, with more of it, as rsync and editors do."""
        name = self._some_name()
        if name is None:
            return ""
        shard = self.shards[name]
        data = shard.data + shard.rest
        shard.rest = b""
        self._put(name, data, anew=True)
        return f"rewrite {name} as a new file of {len(data)} bytes"

    def _overwrite(self) -> str:
        """Write something else over a shard: the same run id within one second."""
        name = self._some_name()
        if name is None:
            return ""
        lines = finished(self.shards[name].data)
        self._rng.shuffle(lines)
        lines = [self._line() if self._rng.random() < 0.5 else line for line in lines[: self._rng.randint(0, 9)]]
        data = b"".join(line + b"\n" for line in lines)
        self.shards[name].rest = b""
        anew = self._rng.random() < 0.5
        self._put(name, data, anew=anew)
        return f"overwrite {name} with {len(data)} bytes{' as a new file' * anew}"

    def _splice(self) -> str:
        """Let two writers get into each other's way: the middle of a shard becomes something else."""
        name = self._some_name()
        if name is None or not self.shards[name].data:
            return ""
        data = self.shards[name].data
        at = self._rng.randint(0, len(data) - 1)
        piece = self._rng.choice((b"\0" * 20, b"\n", b"{}\n", b'"\n'))
        self._put(name, data[:at] + piece + data[at + len(piece) :])
        return f"splice {len(piece)} bytes into {name} at {at}"

    def _cut(self) -> str:
        name = self._some_name()
        if name is None:
            return ""
        shard = self.shards[name]
        keep = self._rng.randint(0, len(shard.data))
        shard.rest = b""
        self._put(name, shard.data[:keep])
        return f"cut {name} to {keep} bytes"

    def _delete(self) -> str:
        name = self._some_name()
        if name is None:
            return ""
        del self.shards[name]
        (self.folder / name).unlink()
        return f"delete {name}"

    def _score(self) -> str:
        session, seconds = self._rng.choice(self._sessions), self._rng.randint(1, 5)
        if not self.wild and any(row.session == session for row in self.rows.values()):
            return ""  # a second row can change what the first one said
        reward = self._rng.choice((0, 1, 1, 3))
        self._add_row(session, seconds, reward)
        return f"score {session} at {seconds}: {reward}"

    def _add_row(self, session: str, seconds: int, reward: int) -> None:
        with closing(sqlite3.connect(self.traces)) as db, db:
            db.execute("PRAGMA synchronous=OFF")
            number = db.execute(_ROW, (session, reward, f"{iso(seconds)}+00:00")).lastrowid
        if number is None:
            raise AssertionError("SQLite gives every row a number")
        self._stamp(self.traces)
        self.rows[number] = Row(number, session, seconds, reward)

    def _reward(self) -> str:
        """Say what a turn was worth, before or after its outcome."""
        session, turn, value = self._rng.choice(self._sessions), self._rng.randrange(TURNS), self._rng.choice((0, 1))
        # An event that comes after an outcome belongs to the next one: that of a second run.
        seconds = self._rng.choice((0, None, 1, 2, 4) if self.wild else (0, None))
        number = add_reward(self.traces, session, turn, value, seconds=seconds, recorded=RECORDED)
        self._stamp(self.traces)
        self.rewards[number] = Reward(number, session, turn, value, seconds)
        return f"reward turn {turn} of {session} at {seconds}: {value}"

    def _correct_reward(self) -> str:
        if not self.rewards:
            return ""
        number, value = self._rng.choice(list(self.rewards)), self._rng.choice((0, 2))
        correct_reward(self.traces, number, value)
        self._stamp(self.traces)
        self.rewards[number] = self.rewards[number]._replace(value=value)
        return f"correct reward {number} to {value}"

    def _correct(self) -> str:
        if not self.rows:
            return ""
        number, reward = self._rng.choice(list(self.rows)), self._rng.choice((0, 2))
        self._set_reward(number, reward)
        return f"correct row {number} to {reward}"

    def play(self) -> str:
        """Write a whole rollout that ends well."""
        session, name = f"s{len(self._sessions)}", self._new_name()
        self._sessions.append(session)
        lines: list[bytes] = []
        for _ in range(self._rng.randint(1, 6)):
            record = Record(session, None, f"{next(self._texts)} {self._rng.choice(_WORDS)}")
            lines.append(jsonl(messages(session, self.turn(record.text), record.text)))
            self._lines[lines[-1].rstrip(b"\n")] = record
        self.shards[name] = Shard(b"")
        self._put(name, b"".join(lines))
        self._add_row(session, 5, 3)
        self._settle()
        return f"play {session}: {len(lines)} lines in {name}"

    def withdraw(self) -> str:
        """Correct a row down, if anything may be."""
        rows = [number for number, row in self.rows.items() if row.reward > 0]
        if not self.wild or not rows:
            return "nothing to withdraw"
        number = self._rng.choice(rows)
        self._set_reward(number, 0)
        self._settle()
        return f"withdraw row {number}"

    def _set_reward(self, number: int, reward: int) -> None:
        with closing(sqlite3.connect(self.traces)) as db, db:
            db.execute("PRAGMA synchronous=OFF")
            db.execute("UPDATE outcome_rewards SET total_reward = ? WHERE id = ?", (reward, number))
        self._stamp(self.traces)
        self.rows[number] = self.rows[number]._replace(reward=reward)

    def _back_up(self) -> str:
        shutil.copyfile(self.traces, self._older)
        self._backup = dict(self.rows), dict(self.rewards)
        return "back up the database"

    def _replace_database(self) -> str:
        """Put an older copy in the place of the database; what only the newer one knew is out of the model."""
        if self._backup is None:
            return ""
        shutil.copyfile(self._older, self._older.with_suffix(".new"))
        self._older.with_suffix(".new").rename(self.traces)
        self._stamp(self.traces)
        rows, rewards = self._backup
        self._torn_sessions |= {row.session for number, row in self.rows.items() if number not in rows}
        self.rows, self.rewards = dict(rows), dict(rewards)
        return "replace the database with the older copy"

    def summary(self) -> Sequence[str]:
        """Return what there is, for people."""
        return [f"{name}: {shard.data!r}" for name, shard in self.shards.items()] + [str(r) for r in self.rows.values()]
