"""Views of lines of the dataset and of shards: plain texts, with URLs for images.

The output of models stays text, whole or truncated, and the page inserts it as text: it becomes neither markup nor a
request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from streamer.base.files import path_text
from streamer.config import Dataset
from streamer.core.records import layouts
from streamer.core.records.conversation import IMAGE_PARTS
from streamer.core.records.layouts import MalformedError
from streamer.core.records.schema import image_parts
from streamer.web.errors import RefusedRequestError, not_found
from streamer.web.lines import dataset_stretch, line_at, lines_before, lines_with
from streamer.web.pictures import NoPictureError, Picture, picture, remote_url

MOST_LISTED = 50
_LISTED_TEXT = 2_000
"""Maximum length of a text in a list, in characters."""

_PREVIEWED_TEXT = 400
_LISTED_MESSAGES = 40
_LISTED_PARTS = 100
_SHOWN_KEYS = ("run_id", "turn", "model", "provider", "total_reward", "achievements_count", "timestamp", "shard")
_WHOLE = 1 << 62


class _Text(msgspec.Struct, frozen=True):
    """A text, or its beginning if ``cut``; ``length`` is the length of the whole in characters."""

    text: str
    length: int
    cut: bool


class _TextPart(_Text, frozen=True, tag="text"):
    """A text part of a message."""


class _OtherPart(_Text, frozen=True, tag="other"):
    """A part of an unknown type, as JSON."""


class _ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An image, its number within the record, and its URL ``src``."""

    image: int
    src: str
    media: str


class _RemoteImagePart(msgspec.Struct, frozen=True, tag="remote_image"):
    """An image with an http(s) URL, which is never fetched."""

    url: str


class _RefusedImagePart(msgspec.Struct, frozen=True, tag="refused_image"):
    """An image that cannot be shown, and the reason; ``length`` is that of its part in characters."""

    why: str
    length: int


_Part = _TextPart | _OtherPart | _ImagePart | _RemoteImagePart | _RefusedImagePart


class _ToolCall(msgspec.Struct, frozen=True):
    """A call of a function; ``arguments`` is the unparsed text, which may not be JSON."""

    id: str
    name: str
    arguments: str
    length: int
    cut: bool


class _Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    parts: list[_Part]
    tool_calls: list[_ToolCall]
    name: str | None
    tool_call_id: str | None


class _Entry(msgspec.Struct, frozen=True):
    """One key of a record's metadata; a value other than text is shown as JSON."""

    key: str
    text: str
    length: int
    cut: bool


class RecordView(msgspec.Struct, frozen=True):
    """A record as the web UI shows it. ``offset`` is its log offset, None for a line of a shard.

    ``messages_before`` is the number of messages left out at its beginning. ``whole`` says that nothing is left out
    or truncated.
    """

    offset: int | None
    bytes: int
    whole: bool
    session: str
    turn: Any
    model: str | None
    provider: str | None
    reward: Any
    achievements: Any
    timestamp: Any
    shard: str | None
    metadata: list[_Entry]
    messages_before: int
    messages: list[_Message]


class _TooLong(msgspec.Struct, frozen=True):
    """A line that exceeds the maximum length in a list."""

    offset: int
    bytes: int
    too_long: bool = True


class _Unreadable(msgspec.Struct, frozen=True):
    """A line without a record, and the reason."""

    offset: int
    bytes: int
    unreadable: str


class _Page(msgspec.Struct, frozen=True):
    """Records of the dataset, newest first; ``next`` is the log offset to continue from, None at the end."""

    records: list[RecordView | _TooLong | _Unreadable]
    next: int | None


class _NoRecordError(Exception):
    """A line without a record; the argument is the reason for the user."""


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def newest(dataset: Dataset, before: int | None, limit: int) -> _Page:
    """Return the newest records before a log offset.

    Raises:
        RefusedRequestError: No record begins there.
    """
    try:
        with dataset_stretch(dataset) as stretch:
            found, oldest = lines_before(stretch, before, min(limit, MOST_LISTED)), stretch.log_offset(0)
    except FileNotFoundError:
        return _Page([], None)
    shown = [_listed(line.offset, line.length, line.data or None) for line in found]
    return _Page(shown, found[-1].offset if found and found[-1].offset > oldest else None)


def at(dataset: Dataset, offset: int) -> RecordView:
    """Return the whole record at a log offset.

    Raises:
        RefusedRequestError: There is none.
    """
    line, length = _record(dataset, offset)
    return _view(line, offset, length, _Limits(_WHOLE, _WHOLE, _WHOLE), _of_dataset(offset))


def image_of(dataset: Dataset, offset: int, number: int) -> Picture:
    """Return one image of a record.

    Raises:
        RefusedRequestError: The record or the image does not exist, or cannot be shown.
    """
    line, _ = _record(dataset, offset)
    return _image(_messages(line), number)


def of_shard(data: bytes, shard: str, src: str) -> RecordView:
    """Return the whole record of a line of a shard.

    Args:
        data: The line, without its newline.
        shard: The shard's path in the ledger.
        src: The prefix of its image URLs.

    Raises:
        RefusedRequestError: The line holds no record.
    """
    line = _from_shard(data, shard)
    return _view(line, None, len(data), _Limits(_WHOLE, _WHOLE, _WHOLE), lambda number: f"{src}/images/{number}")


def image_of_shard(data: bytes, shard: str, number: int) -> Picture:
    """Return one image of a line of a shard.

    Raises:
        RefusedRequestError: There is none, or it cannot be shown.
    """
    return _image(_messages(_from_shard(data, shard)), number)


def of_session(dataset: Dataset, session: str, most: int) -> list[tuple[int, Any, Preview | None]]:
    """Return (log offset, turn, reply) of a session's records in the newest ``most`` bytes of the dataset."""
    found: list[tuple[int, Any, Preview | None]] = []
    with suppress(FileNotFoundError), dataset_stretch(dataset) as stretch:
        for offset, data in lines_with(stretch, _json(session).encode(), most):
            try:
                line = _parsed(data)
            except _NoRecordError:
                continue
            about = line.get("metadata")
            if isinstance(about, dict) and about.get("run_id") == session:
                found.append((offset, _scalar(about.get("turn")), preview(_messages(line))))
    return found


class Preview(msgspec.Struct, frozen=True):
    """The reply of a record (its last message), truncated."""

    role: str
    text: str
    cut: bool
    tool_calls: list[_ToolCall]


def preview(messages: list[dict[str, Any]]) -> Preview | None:
    """Return the last message, truncated; None if there is none."""
    if not messages:
        return None
    limits = _Limits(_PREVIEWED_TEXT, 1, 8)
    content = messages[-1].get("content")
    texts = [content] if isinstance(content, str) else [_short(part) for part in _list(content)]
    text = limits.text("\n".join(text for text in texts if text))
    return Preview(_text(messages[-1].get("role")), text.text, text.cut, _calls(messages[-1], limits))


class _Limits(msgspec.Struct, frozen=True):
    """Limits of a view: characters of a text, messages, and parts or calls of a message."""

    characters: int
    messages: int
    parts: int

    def text(self, text: str) -> _Text:
        return _Text(text[: self.characters], len(text), len(text) > self.characters)


def _record(dataset: Dataset, offset: int) -> tuple[dict[str, Any], int]:
    """Return the record that begins at a log offset, and the bytes of its line."""
    try:
        with dataset_stretch(dataset) as stretch:
            data = line_at(stretch, offset)
        return _parsed(data), len(data)
    except FileNotFoundError:
        raise not_found("the dataset is not there") from None
    except _NoRecordError as error:
        raise not_found(f"the line at byte {offset} holds no record: {error}") from error


def _listed(offset: int, length: int, data: bytes | None) -> RecordView | _TooLong | _Unreadable:
    if data is None:
        return _TooLong(offset, length)
    limits = _Limits(_LISTED_TEXT, _LISTED_MESSAGES, _LISTED_PARTS)
    try:
        return _view(_parsed(data), offset, length, limits, _of_dataset(offset))
    except _NoRecordError as error:
        return _Unreadable(offset, length, str(error))


def _of_dataset(offset: int) -> Callable[[int], str]:
    return lambda number: f"/api/records/{offset}/images/{number}"


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _NoRecordError("it is no JSON object that can be read") from error


def _from_shard(data: bytes, shard: str) -> dict[str, Any]:
    try:
        record = layouts.read(data, path_text(shard))
    except MalformedError as error:
        raise RefusedRequestError(404, f"the line holds no record: {error.reason}: {error.detail}") from error
    own = {
        "run_id": record.session,
        "turn": record.turn,
        "model": record.model,
        "provider": record.provider,
        "timestamp": record.timestamp,
        "shard": shard,
    }
    return {"messages": record.messages, "metadata": {**record.metadata, **own}}


def _view(
    line: dict[str, Any], offset: int | None, length: int, limits: _Limits, src: Callable[[int], str]
) -> RecordView:
    messages = _messages(line)
    metadata = line.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    before = max(0, len(messages) - limits.messages)
    hidden = sum(1 for _ in image_parts(messages[:before]))
    numbers = iter(range(hidden, 1 << 62))
    shown = [_message(message, limits, numbers, src) for message in messages[before:]]
    return RecordView(
        offset=offset,
        bytes=length,
        whole=limits.characters == _WHOLE,
        session=_text(about.get("run_id")),
        turn=_scalar(about.get("turn")),
        model=_name(about.get("model")),
        provider=_name(about.get("provider")),
        reward=_scalar(about.get("total_reward")),
        achievements=_scalar(about.get("achievements_count")),
        timestamp=_scalar(about.get("timestamp")),
        shard=_name(about.get("shard")),
        metadata=[_entry(key, value, limits) for key, value in about.items() if key not in _SHOWN_KEYS][: limits.parts],
        messages_before=before,
        messages=shown,
    )


def _entry(key: str, value: Any, limits: _Limits) -> _Entry:
    text = limits.text(value if isinstance(value, str) else _json(value))
    return _Entry(key, text.text, text.length, text.cut)


def _message(message: dict[str, Any], limits: _Limits, numbers: Iterator[int], src: Callable[[int], str]) -> _Message:
    content = message.get("content")
    if isinstance(content, str):
        parts: list[_Part] = [_text_part(content, limits)] if content else []
    elif isinstance(content, list):
        parts = [_part(part, limits, numbers, src) for part in content][: limits.parts]
    else:
        parts = [] if content is None else [_other(content, limits)]
    return _Message(
        role=_text(message.get("role")),
        parts=parts,
        tool_calls=_calls(message, limits),
        name=_name(message.get("name")),
        tool_call_id=_name(message.get("tool_call_id")),
    )


def _part(part: Any, limits: _Limits, numbers: Iterator[int], src: Callable[[int], str]) -> _Part:
    if not isinstance(part, dict):
        return _text_part(part, limits) if isinstance(part, str) else _other(part, limits)
    if _is_image(part):
        return _image_part(part, next(numbers), src, limits)
    if isinstance(part.get("text"), str):
        return _text_part(part["text"], limits)
    return _other(part, limits)


def _image_part(part: dict[str, Any], number: int, src: Callable[[int], str], limits: _Limits) -> _Part:
    url = remote_url(part)
    if url is not None:
        return _RemoteImagePart(limits.text(url).text)
    try:
        return _ImagePart(number, src(number), picture(part).media)
    except NoPictureError as error:
        return _RefusedImagePart(error.why, len(_json(part)))


def _text_part(text: str, limits: _Limits) -> _TextPart:
    shown = limits.text(text)
    return _TextPart(shown.text, shown.length, shown.cut)


def _other(value: Any, limits: _Limits) -> _OtherPart:
    shown = limits.text(_json(value))
    return _OtherPart(shown.text, shown.length, shown.cut)


def _calls(message: dict[str, Any], limits: _Limits) -> list[_ToolCall]:
    return [_call(call, limits) for call in _list(message.get("tool_calls"))[: limits.parts] if isinstance(call, dict)]


def _call(call: dict[str, Any], limits: _Limits) -> _ToolCall:
    function = call.get("function")
    about = function if isinstance(function, dict) else {}
    raw = about.get("arguments")
    shown = limits.text(raw if isinstance(raw, str) else "" if raw is None else _json(raw))
    return _ToolCall(_text(call.get("id")), _text(about.get("name")), shown.text, shown.length, shown.cut)


def _image(messages: list[dict[str, Any]], number: int) -> Picture:
    parts = [part for _, part in image_parts(messages)]
    if not 0 <= number < len(parts):
        raise not_found(f"the record has {len(parts)} images, counted from 0")
    try:
        return picture(parts[number])
    except NoPictureError as error:
        raise RefusedRequestError(415, error.why) from error


def _is_image(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in IMAGE_PARTS


def _short(part: Any) -> str:
    if not isinstance(part, dict):
        return part if isinstance(part, str) else ""
    return "[image]" if _is_image(part) else _text(part.get("text"))


def _messages(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [message for message in _list(line.get("messages")) if isinstance(message, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _name(value: Any) -> str | None:
    return None if value is None else _text(value)[:_LISTED_TEXT]


def _scalar(value: Any) -> Any:
    """Return a scalar unchanged, a list or an object as JSON text; texts are truncated."""
    if isinstance(value, str):
        return value[:_LISTED_TEXT]
    return _json(value)[:_LISTED_TEXT] if isinstance(value, list | dict) else value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
