"""Measures a dataset, its ledger and its dead letters by what the oracle expects of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from streamer.commands.soak.conversations import BAD_MARK, MARK, messages_digest
from streamer.commands.soak.oracle import Expected, ExpectedRecord
from streamer.commands.soak.problem import BrokenPromise
from streamer.commands.soak.workspace import SoakWorkspace
from streamer.commands.verify.inspect import inspect
from streamer.store.views.snapshot import Snapshot, open_ledger, snapshot


class SoakVerdict(msgspec.Struct, frozen=True):
    """The result of a validation: named counts, and every broken promise."""

    counts: dict[str, int]
    problems: list[BrokenPromise]


class _Line(msgspec.Struct, frozen=True):
    """One line of the dataset: its location, its value, and the mark of its conversation."""

    where: str
    value: dict[str, Any]
    mark: str


def validate(workspace: SoakWorkspace, expected: Expected) -> SoakVerdict:
    """Check dataset, ledger and dead letters; the daemon must have ended.

    Raises:
        StreamerError: The dataset or the ledger cannot be read at all.
    """
    lines, problems = _read(workspace)
    seen = snapshot(workspace.dataset, workspace.ledger)
    problems += _repeated(lines)
    for line in lines:
        problems += _judge(line, expected.records.get(line.mark, []))
    problems += _missing({line.mark for line in lines}, expected)
    problems += _counts_agree(workspace, seen, len(lines))
    problems += _shards(workspace, expected)
    problems += _dead_letters(workspace, seen, expected)
    problems += _inspect(workspace)
    return SoakVerdict(_counts({line.mark for line in lines}, expected, seen), [*expected.problems, *problems])


def marks_in(workspace: SoakWorkspace) -> set[str]:
    """Return the marks of all conversations in the dataset; the daemon may be writing to it."""
    if not workspace.dataset.exists():
        return set()
    with workspace.dataset.open("rb") as dataset:
        return {found[0].decode() for line in dataset if line.endswith(b"\n") and (found := MARK.search(line))}


def _read(workspace: SoakWorkspace) -> tuple[list[_Line], list[BrokenPromise]]:
    lines: list[_Line] = []
    problems: list[BrokenPromise] = []
    with workspace.dataset.open("rb") as dataset:
        for number, data in enumerate(dataset, 1):
            line = _parse(f"{workspace.dataset}:{number}", data)
            if isinstance(line, _Line):
                lines.append(line)
            else:
                problems.append(line)
    return lines, problems


def _parse(where: str, data: bytes) -> _Line | BrokenPromise:
    if not data.endswith(b"\n"):
        return BrokenPromise("unterminated", where, "the last line has no newline, though the daemon has ended")
    marks = {found.decode() for found in MARK.findall(data)}
    try:
        value = json.loads(data)
        is_record = isinstance(value["metadata"], dict) and isinstance(value["messages"], list)
    except (ValueError, TypeError, KeyError):
        is_record = False
    if not is_record or len(marks) != 1:
        return BrokenPromise("foreign", where, "this line is no record of the producer's")
    return _Line(where, value, marks.pop())


def _repeated(lines: Iterable[_Line]) -> Iterator[BrokenPromise]:
    first: dict[str, str] = {}
    for line in lines:
        if line.mark in first:
            yield BrokenPromise("twice", line.where, f"{line.mark} is there twice, first at {first[line.mark]}")
        first.setdefault(line.mark, line.where)


def _judge(line: _Line, records: list[ExpectedRecord]) -> Iterator[BrokenPromise]:
    """Check that the producer wrote this line as it is, and that it may be in."""
    metadata = line.value["metadata"]
    messages = messages_digest(line.value["messages"])
    of_run = [r for r in records if r.said.session == metadata.get("run_id") and r.said.turn == metadata.get("turn")]
    same = [record for record in of_run if record.said.messages == messages]
    name = f"{line.mark} of {metadata.get('run_id')}, turn {metadata.get('turn')}"
    if not same:
        yield BrokenPromise("altered", line.where, f"{name}: the producer wrote no such conversation in that rollout")
    elif not any(record.may for record in same):
        yield BrokenPromise(
            "never_qualified", line.where, f"{name}: its outcome never qualified, or it was never finished"
        )
    elif not any(metadata.get("total_reward") in record.rewards for record in same):
        yield BrokenPromise("wrong_reward", line.where, f"{name}: its outcome never was {metadata.get('total_reward')}")
    elif not any(metadata.get("shard") in record.names for record in same):
        yield BrokenPromise("wrong_shard", line.where, f"{name}: it never was in {metadata.get('shard')}")


def _missing(marks: set[str], expected: Expected) -> Iterator[BrokenPromise]:
    for mark in sorted(expected.must() - marks):
        record = next(record for record in expected.records[mark] if record.must)
        names = ", ".join(sorted(record.names - {record.shard}))
        also = f" (also: {names})" if names else ""
        written = f"{record.said.session}, turn {record.said.turn}, written to {record.shard}{also}"
        yield BrokenPromise("missing", mark, f"{written}: its outcome qualifies, and the dataset does not hold it")


# -- the ledger ----------------------------------------------------------------------------------------


def _counts_agree(workspace: SoakWorkspace, seen: Snapshot, lines: int) -> Iterator[BrokenPromise]:
    """Check that the counts agree with each other and with the files."""
    with open_ledger(workspace.ledger) as db:
        spans = dict(db.execute("SELECT state, sum(lines) FROM span GROUP BY state")) if db else {}
    size = workspace.dataset.stat().st_size
    sums = (
        ("lines read are not the sum of the six", seen.read, sum(spans.values())),
        ("dataset_lines is not appended + adopted", seen.dataset_lines, seen.counts["appended"] + seen.adopted),
        ("dataset_lines is not what the file holds", seen.dataset_lines, lines),
        ("dataset_bytes is not what the file holds", seen.dataset_bytes, size),
        *((f"{state} is not what its spans hold", n, spans.get(state, 0)) for state, n in seen.counts.items()),
    )
    for what, one, other in sums:
        if one != other:
            yield BrokenPromise("accounts", str(workspace.ledger), f"{what}: {one} and {other}")


def _shards(workspace: SoakWorkspace, expected: Expected) -> Iterator[BrokenPromise]:
    """Check that every finished line of every shard has been read and is counted once."""
    with open_ledger(workspace.ledger) as db:
        rows = db.execute(
            "SELECT path, (SELECT coalesce(sum(lines), 0) FROM span WHERE shard = shard.id) FROM shard"
            " WHERE NOT replaced"
        ).fetchall() if db else []  # fmt: skip
    counted = {os.fsdecode(path): lines for path, lines in rows}
    for shard, lines in expected.lines.items():
        if counted.get(shard, 0) != lines:
            what = f"it holds {lines} finished lines, and {counted.get(shard, 0)} are accounted for"
            yield BrokenPromise("lines_lost", str(workspace.shards / shard), what)


def _dead_letters(workspace: SoakWorkspace, seen: Snapshot, expected: Expected) -> Iterator[BrokenPromise]:
    where = str(workspace.dead_letters)
    data = workspace.dead_letters.read_bytes() if workspace.dead_letters.exists() else b""
    letters = data.split(b"\n")[:-1]
    if data and not data.endswith(b"\n"):
        yield BrokenPromise("dead_letters", where, "its last line is not finished")
    if len(letters) != seen.counts["dead_lettered"]:
        yield BrokenPromise(
            "dead_letters", where, f"{len(letters)} lines, {seen.counts['dead_lettered']} in the accounts"
        )
    reported: set[str] = set()
    for number, letter in enumerate(letters, 1):
        found = BAD_MARK.search(letter)
        name = found[0].decode() if found else ""
        reported.add(name)
        if not _has_reason(letter):
            yield BrokenPromise("dead_letters", f"{where}:{number}", "no dead letter with a reason")
        elif name not in expected.ever_bad:
            yield BrokenPromise(
                "dead_letters", f"{where}:{number}", "the line that it tells of is none of the bad ones"
            )
    for mark in sorted(expected.bad - reported):
        yield BrokenPromise("dead_letters", where, f"the bad line {mark} has no dead letter")


def _has_reason(letter: bytes) -> bool:
    try:
        return bool(json.loads(letter)["reason"])
    except (ValueError, TypeError, KeyError):
        return False


def _inspect(workspace: SoakWorkspace) -> Iterator[BrokenPromise]:
    """Report the findings of ``streamer verify``."""
    for found in inspect(workspace.dataset, decode_images=False).problems.first:
        yield BrokenPromise("verify", f"{workspace.dataset}:{found.line}", f"{found.kind}: {found.detail}")


# -- the counts ----------------------------------------------------------------------------------------


def _counts(marks: set[str], expected: Expected, seen: Snapshot) -> dict[str, int]:
    results = Counter(_result(mark in marks, records) for mark, records in expected.records.items())
    return {
        "lines in the shards": sum(expected.lines.values()),
        "lines in the dataset": seen.dataset_lines,
        **{result: results[result] for result in _RESULTS},
        **{f"accounts: {state}": lines for state, lines in seen.counts.items()},
        "accounts: adopted": seen.adopted,
        "accounts: overwritten": seen.overwritten,
        "accounts: withdrawn rollouts": seen.withdrawn_rollouts,
    }


_RESULTS = (
    _MUST := "conversations that must be in: in",
    _MISSING := "conversations that must be in: missing",
    _NOT := "conversations that must not be in: out",
    _WRONG := "conversations that must not be in: in",
    _STAYED := "their outcome qualified for a while: in",
    _MISSED := "their outcome qualified for a while: out",
    _OVERWRITTEN_IN := "overwritten by the producer: in",
    _OVERWRITTEN := "overwritten by the producer: out",
)


def _result(is_in: bool, records: list[ExpectedRecord]) -> str:  # noqa: FBT001 - a fact, not a mode
    if any(record.must for record in records):
        return _MUST if is_in else _MISSING
    if any(record.may and record.is_there for record in records):
        return _STAYED if is_in else _MISSED
    if any(record.may for record in records):
        return _OVERWRITTEN_IN if is_in else _OVERWRITTEN
    return _WRONG if is_in else _NOT
