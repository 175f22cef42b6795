"""Rows of the table ``messages`` -> records: one record for each decision of a session. Pure: no I/O, no clock.

A decision is the prompt of a policy in one timestep, and its reply. Its rows follow each other in the
order of their ids: prompts (``system``, ``user``), the reply (``assistant``, ``tool_use``), and the answers of tools
(``tool_result``). A new timestep begins a new decision, and so does a prompt after a reply: a session
that was run twice has both runs in the same timesteps.

Rows are fed page by page; only the unfinished decision is held in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from streamer.base.json_depth import LIMIT, too_deep
from streamer.core.records.conversation import has_image, of_messages
from streamer.core.records.layouts import MalformedError, checked_message, time_us
from streamer.core.records.model import SourceRecord
from streamer.core.records.trace_calls import Call, answering
from streamer.core.records.trace_replies import Reply, as_tool_calls, is_parts, read_reply

_SYSTEM_TYPES = frozenset({"system", "policy_system_prompt"})
_USER_TYPES = frozenset({"user", "policy_user_prompt"})
_REPLY_TYPES = frozenset({"assistant", "policy_tool_call", "tool_use"})
_TOOL_RESULT = "tool_result"

MAX_CHARACTERS = 64 << 20
"""Characters of content and metadata in one decision; a longer one is a dead letter, like a long shard line."""

_PROMPT_TYPES = _SYSTEM_TYPES | _USER_TYPES
_STEP = re.compile(r".*?(\d{1,15})", re.ASCII | re.DOTALL)
_decode = msgspec.json.Decoder().decode


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of ``messages``. ``time`` is its ``event_time``: seconds since 1970-01-01 UTC, or None."""

    id: int
    timestep: int | None
    type: str
    content: str | None
    metadata: str | None = None
    time: float | None = None


class Decision(msgspec.Struct, frozen=True):
    """One decision: the ids of its first and last row, its time, and its record or the error.

    ``time_us`` is the time of its reply, or of its last row if there is no reply; it is set without a record, too.
    """

    session: str
    turn: int | None
    first: int
    last: int
    found: SourceRecord | MalformedError
    time_us: int | None = None

    def record(self) -> SourceRecord:
        """Return the record.

        Raises:
            MalformedError: the decision holds no usable record.
        """
        if isinstance(self.found, MalformedError):
            raise self.found
        return self.found


class Decisions:
    """Turns the rows of one session into decisions, in the order of their ids.

    Args:
        session: The session id of the rows.
        model: The session's model, for decisions whose call does not name one.
        max_characters: Characters of the longest decision.
    """

    def __init__(self, session: str, model: Any = None, max_characters: int = MAX_CHARACTERS) -> None:
        self._session = session
        self._model = model
        self._max_characters = max_characters
        self._rows: list[_Read] = []
        self._size = 0
        self._place: tuple[int | None, int | None] | None = None
        self._replied = False
        self._calls: dict[int, list[Call]] = {}
        self._session_system: list[_Read] = []

    def feed(self, rows: Iterable[Row], calls: Iterable[Call] = ()) -> Iterator[Decision]:
        """Add the next rows, and yield the decisions that they finish.

        Args:
            rows: Rows of the session in order of id, each with a higher id than all before.
            calls: The model's calls in the timesteps of these rows.
        """
        unfinished = self._place[0] if self._rows and self._place else None
        known = {step: found for step, found in self._calls.items() if step == unfinished}
        self._calls = {}
        for call in calls:
            self._calls.setdefault(call.timestep, []).append(call)
        self._calls = known | self._calls
        for row in rows:
            read = _Read(row)
            if self._rows and self._begins(read):
                yield from self.finish()
            self._keep(read)

    def _begins(self, read: _Read) -> bool:
        return read.place != self._place or (self._replied and read.row.type in _PROMPT_TYPES)

    def _keep(self, read: _Read) -> None:
        self._size += len(read.row.content or "") + len(read.row.metadata or "")
        if self._size > self._max_characters:
            # It will be a dead letter, which needs only the first and the last row.
            self._rows = self._rows[:1]
            for kept in (*self._rows, read):
                kept.drop()
        self._rows.append(read)
        self._place = read.place
        self._replied |= read.row.type not in _PROMPT_TYPES

    def finish(self) -> Iterator[Decision]:
        """Yield the unfinished decision, if there is one: no more of its rows follow."""
        rows, size = self._rows, self._size
        self._rows, self._size, self._replied = [], 0, False
        if not rows:
            return
        if all(read.row.type in _SYSTEM_TYPES for read in rows) and rows[0].row.timestep is None:
            # Said once for the whole session, before its first timestep.
            self._session_system = rows
            return
        yield Decision(
            session=self._session,
            turn=rows[0].turn,
            first=rows[0].row.id,
            last=rows[-1].row.id,
            found=self._found(rows, size),
            time_us=_time_us(rows),
        )

    def _found(self, rows: list[_Read], size: int) -> SourceRecord | MalformedError:
        if size > self._max_characters:
            return MalformedError("too_long", f"longer than {self._max_characters} characters")
        try:
            return self._record(rows)
        except MalformedError as error:
            return error

    def _record(self, rows: list[_Read]) -> SourceRecord:
        has_system = any(read.row.type in _SYSTEM_TYPES for read in rows)
        conversation = _Conversation()
        for read in rows if has_system else [*self._session_system, *rows]:
            conversation.add(read)
        call = self._complete(conversation, rows)
        messages = conversation.finished()
        moment = _moment(conversation.replied_at)
        prompt_image, reply_image = (
            has_image([m for m in messages if (m["role"] == "assistant") is of_reply]) for of_reply in (False, True)
        )
        return SourceRecord(
            session=self._session,
            conversation=of_messages(messages),
            has_image=prompt_image or reply_image,
            turn=rows[0].turn,
            model=call.model if call and call.model else self._model,
            provider=call.provider if call else None,
            timestamp=moment,
            time_us=time_us(moment),
            metadata={"user_has_image": prompt_image, "assistant_has_image": reply_image},
        )

    def _complete(self, conversation: _Conversation, rows: list[_Read]) -> Call | None:
        """Add the model's text beside its tool calls, which the producer leaves out of the row."""
        calls = self._calls.get(rows[0].row.timestep or 0, [])
        reply = conversation.only_reply()
        if reply is None or not calls:
            return None
        call = answering(calls, reply.get("tool_calls", []), conversation.replied_at)
        if call is not None and call.text and reply["content"] == "":
            reply["content"] = call.text
        return call


class _Read:
    """A row with its metadata parsed."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.metadata, self.turn = _about(row.metadata)

    @property
    def place(self) -> tuple[int | None, int | None]:
        """Timestep, or turn where there is none: another value begins another decision."""
        return self.row.timestep, self.turn if self.row.timestep is None else None

    def drop(self) -> None:
        """Drop the content, as it is too long."""
        self.row = msgspec.structs.replace(self.row, content=None)


class _Conversation:
    """The messages of one decision, as trainers accept them."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._calls = 0
        self._given: dict[str, str] = {}
        self._unanswered: list[str] = []
        self.replied_at: float | None = None

    def add(self, read: _Read) -> None:
        """Add the message of one row.

        Raises:
            MalformedError: the row holds none.
        """
        row, where = read.row, f"message row {read.row.id}"
        if row.type in _PROMPT_TYPES:
            is_system = row.type in _SYSTEM_TYPES
            content = _repeated(row.content) if is_system else _prompt(row.content)
            if content is not None:
                role = "system" if is_system else "user"
                self._messages.append(checked_message({"role": role, "content": content}, where))
        elif row.type in _REPLY_TYPES:
            is_call = row.type != "assistant" or read.metadata.get("is_tool_call") is True
            self._add_reply(read_reply(row.content, _parsed(row.content), where, is_call=is_call), where)
            self.replied_at = row.time
        elif row.type == _TOOL_RESULT:
            self._add_result(row, where)
        else:
            raise MalformedError("unknown_role", f"{where} is of the type {row.type[:60]!r}")

    def _add_reply(self, reply: Reply, where: str) -> None:
        calls = [self._numbered(call) for call in as_tool_calls(reply.calls, where)]
        last = self._messages[-1] if self._messages else None
        if last is not None and last["role"] == "assistant" and not reply.content:
            # One reply in two rows: its text, and its tool calls.
            if calls:
                last["tool_calls"] = [*last.get("tool_calls", []), *calls]
            return
        message: dict[str, Any] = {"role": "assistant", "content": reply.content}
        if calls:
            message["tool_calls"] = calls
        self._messages.append(checked_message(message, where))

    def _numbered(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return a call with an id that is the same at every reading: the row has none, or a random one."""
        name = f"call_{self._calls}"
        self._calls += 1
        if isinstance(call.get("id"), str):
            self._given[call["id"]] = name
        self._unanswered.append(name)
        return {"id": name, "type": "function", "function": call["function"]}

    def _add_result(self, row: Row, where: str) -> None:
        value = _parsed(row.content)
        named = value.get("tool_call_id") if isinstance(value, dict) else None
        name = self._given.get(named) if isinstance(named, str) else None
        name = name or (self._unanswered[0] if self._unanswered else None)
        if name is None:
            raise MalformedError("bad_message", f"{where} is the result of no call")
        if name in self._unanswered:
            self._unanswered.remove(name)
        content = _result(row.content, value)
        self._messages.append(checked_message({"role": "tool", "tool_call_id": name, "content": content}, where))

    def only_reply(self) -> dict[str, Any] | None:
        """Return the message of the assistant, if there is exactly one."""
        replies = [message for message in self._messages if message["role"] == "assistant"]
        return replies[0] if len(replies) == 1 else None

    def finished(self) -> list[dict[str, Any]]:
        """Return the messages.

        Raises:
            MalformedError: there is no prompt, or no reply.
        """
        messages = [m for m in self._messages if m["role"] != "assistant" or m["content"] or m.get("tool_calls")]
        if not any(message["role"] == "assistant" for message in messages):
            raise MalformedError("reply_missing", "the decision has no reply in the table messages")
        if messages[0]["role"] == "assistant":
            raise MalformedError("no_conversation", "the decision has a reply, and nothing that it replies to")
        return messages


def from_completion(session: str, metadata: dict[str, Any]) -> SourceRecord:
    """Return the record of a session that has no messages, but prompt and completion in its metadata.

    Raises:
        MalformedError: one of them is missing.
    """
    prompt, completion = metadata.get("prompt"), metadata.get("completion")
    if not prompt:
        raise MalformedError("no_conversation", "neither messages nor a prompt")
    if not completion:
        raise MalformedError("reply_missing", "a prompt without a completion")
    asked = {"role": "user", "content": prompt}
    messages = [
        checked_message(asked, "prompt"),
        checked_message({"role": "assistant", "content": completion}, "completion"),
    ]
    images = [has_image([message]) for message in messages]
    return SourceRecord(
        session=session,
        conversation=of_messages(messages),
        has_image=any(images),
        model=metadata.get("model"),
        metadata={"user_has_image": images[0], "assistant_has_image": images[1]},
    )


def _parsed(text: str | None) -> Any:
    """Return the JSON value that a text holds, or None if it is not JSON.

    Raises:
        MalformedError: it is nested too deeply.
    """
    if not text:
        return None
    try:
        value = _decode(text)
    except RecursionError:
        raise MalformedError("too_deep", "nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if text.count("[") + text.count("{") > LIMIT and too_deep(text.encode()):
        raise MalformedError("too_deep", f"nested more than {LIMIT} levels deep")
    return value


def as_object(text: str | None) -> dict[str, Any]:
    """Return the JSON object in a column ``metadata``; empty if it holds none."""
    try:
        value = _parsed(text)
    except MalformedError:
        value = None
    return value if isinstance(value, dict) else {}


def _prompt(text: str | None) -> Any:
    """Return the content of a prompt: a text, a list of parts, or None if it has none.

    The producer wraps it: ``{"role": …, "text": …, "content": …}``. Anything else is text, whether JSON or not,
    except a list of parts.
    """
    value = _parsed(text)
    if isinstance(value, dict):
        inner = value["payload"] if isinstance(value.get("payload"), dict) else value
        for key in ("content", "text"):
            if inner.get(key) is not None:
                return inner[key]
        return None if "role" in value else text
    return value if is_parts(value) else text


_repeated = lru_cache(maxsize=8)(_prompt)
"""Cached for system prompts: every decision has the same one."""


def _result(text: str | None, value: Any) -> Any:
    """Return the answer of a tool, as a text or a list of parts."""
    inner = value
    if isinstance(value, dict):
        inner = next(
            (value[key] for key in ("content", "result", "output", "text") if value.get(key) is not None), value
        )
    if isinstance(inner, str):
        return inner
    if is_parts(inner):
        return inner
    return text or "" if inner is value else msgspec.json.encode(inner).decode()


@lru_cache(maxsize=8)
def _about(metadata: str | None) -> tuple[dict[str, Any], int | None]:
    """Return (metadata, turn) of a row; cached, as the rows of a decision have the same."""
    found = as_object(metadata)
    return found, _turn(found)


def _turn(metadata: dict[str, Any]) -> int | None:
    """Return the number of the decision in its rollout, as shards have it; the first is 0."""
    turn = metadata.get("turn")
    if isinstance(turn, int) and not isinstance(turn, bool):
        return turn
    step = metadata.get("step_id")
    match = _STEP.fullmatch(step) if isinstance(step, str) else None
    return int(match[1]) if match else None


def _time_us(rows: Sequence[_Read]) -> int | None:
    """Return the time of a decision, which is also that of its record."""
    replies = [read.row for read in rows if read.row.type in _REPLY_TYPES]
    return time_us(_moment((replies or [rows[-1].row])[-1].time))


def _moment(seconds: float | None) -> str | None:
    """Return a time as shards write it: ISO, naive, UTC."""
    if seconds is None or not math.isfinite(seconds):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    except (OverflowError, ValueError, OSError):
        return None
