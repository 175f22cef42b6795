"""From the bytes of one shard line to its record.

Two layouts are known. *dialogue*: ``run_id, turn, model, provider, dialogue, assistant{...}, metadata,
timestamp``, where ``dialogue`` is the prompt and ``assistant`` the reply. *messages*: ``messages`` with or
without ``metadata``. One file may have lines of both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from streamer.base.json_depth import LIMIT, too_deep
from streamer.base.text import invalid_utf8
from streamer.core.records.conversation import Conversation, from_dialogue, from_messages, of_messages
from streamer.core.records.model import SourceRecord

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_STAMPED = re.compile(r"(?P<id>.+)_\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")
_REPLY_ONLY_KEYS = frozenset({"content_text", "has_image"})
_US = 1_000_000
_NULL = msgspec.Raw(b"null")
_LATEST_SECONDS = 1e11
"""Seconds from here on are no times (milliseconds, perhaps): no time is better than a wrong one."""


MalformedReason = Literal[
    "bad_encoding", "bad_header", "bad_message", "bad_metadata", "invalid_utf8", "no_conversation", "no_reply",
    "not_a_record", "not_json", "not_object", "nul_bytes", "reply_missing", "reply_truncated", "too_deep", "too_long",
    "unknown_role", "wrong_bucket",
]  # fmt: skip
"""Counted reasons of dead letters."""


class MalformedError(Exception):
    """A line holds no usable record. ``reason`` is the counted name, ``detail`` says where."""

    def __init__(self, reason: MalformedReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class _Source(msgspec.Struct, gc=False):
    """The keys of both layouts, decoded; all others (``dialogue_text``) are checked as JSON and skipped."""

    run_id: Any = None
    turn: Any = None
    model: Any = None
    provider: Any = None
    timestamp: Any = None
    messages: Any = None
    dialogue: Any = None
    assistant: Any = None
    metadata: Any = None


_Scalar = str | int | float | bool | None


class _Outline(msgspec.Struct, gc=False):
    """The same keys, with their larger values left as bytes."""

    run_id: str | int | None = None
    turn: _Scalar = None
    model: _Scalar = None
    provider: _Scalar = None
    timestamp: _Scalar = None
    messages: msgspec.Raw = _NULL
    dialogue: msgspec.Raw = _NULL
    assistant: msgspec.Raw = _NULL
    metadata: msgspec.Raw = _NULL


_BLANKS = b" \t\n\r"
"""White space that JSON allows around a value."""

_decode = msgspec.json.Decoder(_Source).decode
_outline = msgspec.json.Decoder(_Outline).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The session and time of a line, read without its conversation. ``record_of`` reads the rest."""

    session: str
    timestamp: Any
    time_us: int | None
    outline: _Outline | None
    metadata: dict[str, Any] | None
    data: bytes


def read(data: bytes, shard: str) -> SourceRecord:
    """Return the record of one line.

    Args:
        data: The line's bytes, without the newline.
        shard: The shard's name or path; it gives the session id where the record has none.

    Raises:
        MalformedError: the line is no JSON object with a conversation that a trainer can use.
    """
    return record_of(envelope(data, shard))


def envelope(data: bytes, shard: str) -> Envelope:
    """Return the session and time of a line, without reading its conversation.

    Raises:
        MalformedError: the line is no JSON object, or its session id is neither text nor a whole number.
    """
    outline = _outline_of(data)
    if outline is None:
        source = _parse(data)
        metadata = _metadata(source.metadata)
        timestamp = _first(source.timestamp, metadata.get("timestamp"))
        return Envelope(_session(source.run_id, metadata, shard), timestamp, time_us(timestamp), None, metadata, data)
    run_id, timestamp = outline.run_id, outline.timestamp
    if run_id and timestamp is not None:  # metadata cannot change them
        return Envelope(str(run_id), timestamp, time_us(timestamp), outline, None, data)
    metadata = _metadata_of(outline)
    timestamp = _first(timestamp, metadata.get("timestamp"))
    return Envelope(_session(run_id, metadata, shard), timestamp, time_us(timestamp), outline, metadata, data)


def record_of(line: Envelope) -> SourceRecord:
    """Return the record of a line whose envelope was read.

    Raises:
        MalformedError: its conversation is none that a trainer can use.
    """
    outline = line.outline
    conversation = _usual_conversation(outline) if outline is not None else None
    if conversation is None or outline is None:
        return _record(line, _parse(line.data))
    metadata = _metadata_of(outline) if line.metadata is None else line.metadata
    return _source_record(line, conversation, outline, metadata)


def _record(line: Envelope, source: _Source) -> SourceRecord:
    metadata = _metadata(source.metadata)
    if source.messages is not None:
        messages = _from_messages(source.messages)
    elif source.dialogue is not None:
        messages = _from_dialogue(source.dialogue, source.assistant)
    else:
        raise MalformedError("no_conversation", "neither messages nor dialogue")
    return _source_record(line, of_messages(messages), source, metadata)


def _source_record(
    line: Envelope, conversation: Conversation, keys: _Source | _Outline, metadata: dict[str, Any]
) -> SourceRecord:
    return SourceRecord(
        session=line.session,
        conversation=conversation,
        has_image=conversation.has_image or metadata.get("has_image") is True,
        turn=_first(keys.turn, metadata.get("turn")),
        model=_first(keys.model, metadata.get("model")),
        provider=_first(keys.provider, metadata.get("provider")),
        timestamp=line.timestamp,
        time_us=line.time_us,
        metadata=metadata,
    )


def _outline_of(data: bytes) -> _Outline | None:
    """Return the outline of a line, or None if ``_parse`` has to read it."""
    if invalid_utf8(data) is not None:
        return None
    try:
        return _outline(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def _usual_conversation(outline: _Outline) -> Conversation | None:
    if outline.messages is not _NULL:
        return from_messages(outline.messages)
    return from_dialogue(outline.dialogue, outline.assistant)


def _metadata_of(outline: _Outline) -> dict[str, Any]:
    raw = outline.metadata
    if raw is _NULL:
        return {}
    data = bytes(raw)
    if too_deep(data):
        raise _too_deep()
    if not _is_object(data):
        return _metadata(None if data.strip(_BLANKS) == b"null" else [])
    try:
        return _object(data)
    except msgspec.DecodeError as error:
        raise MalformedError("not_json", str(error)) from None


def _metadata(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedError("bad_metadata", "metadata is not an object")
    return value


def _too_deep() -> MalformedError:
    return MalformedError("too_deep", f"nested more than {LIMIT} levels deep")


def _is_object(data: bytes) -> bool:
    return data.lstrip(_BLANKS).startswith(b"{")


def _parse(data: bytes) -> _Source:
    if (offset := invalid_utf8(data)) is not None:
        raise MalformedError("invalid_utf8", f"byte {offset} is not UTF-8")
    try:
        source = _decode(data)
    except RecursionError:
        raise MalformedError("too_deep", "nested too deeply") from None
    except msgspec.ValidationError as error:
        raise MalformedError("not_json" if _is_object(data) else "not_object", str(error)) from None
    except msgspec.DecodeError as error:
        reason: MalformedReason = "nul_bytes" if b"\0" in data else "not_json"
        raise MalformedError(reason, str(error)) from None
    if too_deep(data):
        raise _too_deep()
    return source


def _from_messages(messages: Any) -> list[dict[str, Any]]:
    checked = [checked_message(message, f"messages[{i}]") for i, message in enumerate(_list(messages, "messages"))]
    if not any(message["role"] == "assistant" for message in checked):
        raise MalformedError("no_reply", "no message of role assistant")
    return checked


def _from_dialogue(dialogue: Any, reply: Any) -> list[dict[str, Any]]:
    prompt = [checked_message(message, f"dialogue[{i}]") for i, message in enumerate(_list(dialogue, "dialogue"))]
    if reply is None:
        raise MalformedError("no_reply", "assistant is missing")
    if not isinstance(reply, dict):
        raise MalformedError("bad_message", "assistant is not an object")
    answer: dict[str, Any] = {"role": "assistant", "content": reply.get("content", reply.get("content_text"))}
    answer |= {key: value for key, value in reply.items() if key not in _REPLY_ONLY_KEYS}
    if not answer.get("tool_calls"):
        answer.pop("tool_calls", None)
    return [*prompt, checked_message(answer, "assistant")]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise MalformedError("no_conversation", f"{where} is not a list with messages")
    return value


def checked_message(message: Any, where: str) -> dict[str, Any]:
    """Return a message after checking it: the same object, unless tool arguments have to become a string.

    Args:
        message: The JSON value of the message.
        where: Its place in the line, for the detail of an error.

    Raises:
        MalformedError: no trainer can use it.
    """
    if not isinstance(message, dict):
        raise MalformedError("bad_message", f"{where} is not an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise MalformedError("unknown_role", f"{where}.role is not one of {', '.join(sorted(ROLES))}")
    _check_content(message, where)
    calls = message.get("tool_calls")
    return message if calls is None else _with_string_arguments(message, calls, where)


def _check_content(message: dict[str, Any], where: str) -> None:
    content = message.get("content")
    if isinstance(content, list):
        for i, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise MalformedError("bad_message", f"{where}.content[{i}] is not a part with a type")
    elif content is None:
        if message["role"] != "assistant":
            raise MalformedError("bad_message", f"{where} has no content")
        if not message.get("tool_calls") and not message.get("function_call"):
            raise MalformedError("no_reply", f"{where} has neither content nor tool calls")
    elif not isinstance(content, str):
        raise MalformedError("bad_message", f"{where}.content is neither a string nor a list of parts")


def _with_string_arguments(message: dict[str, Any], calls: Any, where: str) -> dict[str, Any]:
    if not isinstance(calls, list):
        raise MalformedError("bad_message", f"{where}.tool_calls is not a list")
    fixed: list[Any] | None = None
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise MalformedError("bad_message", f"{where}.tool_calls[{i}] has no function with a name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            continue
        text = msgspec.json.encode({} if arguments is None else arguments).decode()
        fixed = fixed if fixed is not None else list(calls)
        fixed[i] = {**call, "function": {**function, "arguments": text}}
    return message if fixed is None else {**message, "tool_calls": fixed}


def _first(value: Any, other: Any) -> Any:
    return value if value is not None else other


def _session(run_id: Any, metadata: dict[str, Any], shard: str) -> str:
    for value in (run_id, metadata.get("run_id"), metadata.get("session_id")):
        if value is None or value == "":
            continue
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise MalformedError("bad_metadata", "run_id is neither a string nor a whole number")
    return session_of_name(shard)


def session_of_name(shard: str) -> str:
    """Return the session id in a shard's name: ``sft_<id>`` or ``<id>_<Y-m-d_H-M-S>``."""
    stem = shard.rpartition("/")[2].removesuffix(".jsonl")
    if stem.startswith("sft_"):
        return stem.removeprefix("sft_")
    stamped = _STAMPED.fullmatch(stem)
    return stamped["id"] if stamped else stem


def time_us(value: Any) -> int | None:
    """Return microseconds since the epoch for an ISO time (naive = UTC) or a number of seconds, else None."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (when - (_NAIVE_EPOCH if when.tzinfo is None else _EPOCH)) // _ONE_US
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST_SECONDS:
        return int(value * _US)
    return None


def latest_us(value: Any) -> int | None:
    """Return the last microsecond that a time can stand for: one without a fraction stands for its whole second.

    SQLite's CURRENT_TIMESTAMP has no fraction: what it says is up to a second before the moment that it was made.
    """
    moment = time_us(value)
    has_fraction = "." in value or "," in value if isinstance(value, str) else isinstance(value, float)
    return moment if moment is None or has_fraction else moment + _US - 1


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive times are UTC
_ONE_US = timedelta(microseconds=1)
