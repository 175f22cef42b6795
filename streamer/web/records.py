"""Lines of the dataset and of shards, made ready to be shown: plain texts, with images as places to get them from.

What models wrote stays text here, whole or cut; it becomes neither markup nor a request. The page sets it as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

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
"""Characters of a text that a list shows."""

_PREVIEWED_TEXT = 400
_LISTED_MESSAGES = 40
_LISTED_PARTS = 100
_OWN_KEYS = ("run_id", "turn", "model", "provider", "total_reward", "achievements_count", "timestamp", "shard")
_WHOLE = 1 << 62


class _Text(msgspec.Struct, frozen=True):
    """A text, or its beginning; ``length`` is that of the whole, in characters."""

    text: str
    length: int
    cut: bool


class _TextPart(_Text, frozen=True, tag="text"):
    """A part of a message that is text."""


class _OtherPart(_Text, frozen=True, tag="other"):
    """A part of a message of a kind that is not known, as JSON."""


class _ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An image that ``src`` gives, the so manyth of its record."""

    image: int
    src: str
    media: str


class _RemoteImagePart(msgspec.Struct, frozen=True, tag="remote_image"):
    """An image that lies elsewhere. It is never fetched."""

    url: str


class _RefusedImagePart(msgspec.Struct, frozen=True, tag="refused_image"):
    """An image that is not shown, and why; ``length`` is that of what stands in its place, in characters."""

    why: str
    length: int


_Part = _TextPart | _OtherPart | _ImagePart | _RemoteImagePart | _RefusedImagePart


class _ToolCall(msgspec.Struct, frozen=True):
    """A call of a function; ``arguments`` as they stand, which need not be JSON."""

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
    """One key of a record's metadata; what is no text is JSON."""

    key: str
    text: str
    length: int
    cut: bool


class RecordView(msgspec.Struct, frozen=True):
    """A record as the page shows it. ``offset`` is its place in the dataset, None for a line of a shard.

    ``messages_before`` are left out at its beginning. ``whole`` says that nothing was left out or cut.
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
    """A line that is too long for a list."""

    offset: int
    bytes: int
    too_long: bool = True


class _Unreadable(msgspec.Struct, frozen=True):
    """A line that holds no record, and why."""

    offset: int
    bytes: int
    unreadable: str


class _Page(msgspec.Struct, frozen=True):
    """Records of the dataset, the newest first; ``next`` is where the older ones end, None if there are none."""

    records: list[RecordView | _TooLong | _Unreadable]
    next: int | None


class _NoRecordError(Exception):
    """A line that holds no record; the argument says why, for people."""


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def newest(dataset: Dataset, before: int | None, limit: int) -> _Page:
    """Return the newest records before a place in the dataset.

    Raises:
        RefusedRequestError: no record begins there.
    """
    try:
        with dataset_stretch(dataset) as stretch:
            found, oldest = lines_before(stretch, before, min(limit, MOST_LISTED)), stretch.log_offset(0)
    except FileNotFoundError:
        return _Page([], None)
    shown = [_listed(line.offset, line.length, line.data) for line in found]
    return _Page(shown, found[-1].offset if found and found[-1].offset > oldest else None)


def at(dataset: Dataset, offset: int) -> RecordView:
    """Return the whole record at a place in the dataset.

    Raises:
        RefusedRequestError: there is none.
    """
    data = _line_of(dataset, offset)
    try:
        return _view(_parsed(data), offset, len(data), _Cut(_WHOLE, _WHOLE, _WHOLE), _of_dataset(offset))
    except _NoRecordError as error:
        raise not_found(f"the line at byte {offset} holds no record: {error}") from error


def image_of(dataset: Dataset, offset: int, number: int) -> Picture:
    """Return one image of a record.

    Raises:
        RefusedRequestError: there is no such record or image, or it is not shown.
    """
    data = _line_of(dataset, offset)
    try:
        line = _parsed(data)
    except _NoRecordError as error:
        raise not_found(f"the line at byte {offset} holds no record: {error}") from error
    return _image(_messages(line), number)


def of_shard(data: bytes, shard: str, src: str) -> RecordView:
    """Return the whole record of a line of a shard.

    Args:
        data: the line, without its newline.
        shard: the shard's path, as the ledger has it.
        src: what the place of an image begins with.

    Raises:
        RefusedRequestError: the line holds no record.
    """
    line = _from_shard(data, shard)
    return _view(line, None, len(data), _Cut(_WHOLE, _WHOLE, _WHOLE), lambda number: f"{src}/images/{number}")


def image_of_shard(data: bytes, shard: str, number: int) -> Picture:
    """Return one image of a line of a shard.

    Raises:
        RefusedRequestError: there is none, or it is not shown.
    """
    return _image(_messages(_from_shard(data, shard)), number)


def of_session(dataset: Dataset, session: str, most: int) -> list[tuple[int, Any, Preview | None]]:
    """Return offset, turn and reply of the records of a session, among the newest ``most`` bytes of the dataset."""
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
    """The reply of a record: its last message, in short."""

    role: str
    text: str
    cut: bool
    tool_calls: list[_ToolCall]


def preview(messages: list[dict[str, Any]]) -> Preview | None:
    """Return the last message in short, None where there is none."""
    if not messages:
        return None
    cut = _Cut(_PREVIEWED_TEXT, 1, 8)
    content = messages[-1].get("content")
    texts = [content] if isinstance(content, str) else [_in_short(part) for part in _list(content)]
    text = cut.text("\n".join(text for text in texts if text))
    return Preview(_text(messages[-1].get("role")), text.text, text.cut, _calls(messages[-1], cut))


class _Cut(msgspec.Struct, frozen=True):
    """How much of a record is shown: characters of a text, messages, parts or calls of a message."""

    characters: int
    messages: int
    parts: int

    def text(self, text: str) -> _Text:
        return _Text(text[: self.characters], len(text), len(text) > self.characters)


def _line_of(dataset: Dataset, offset: int) -> bytes:
    try:
        with dataset_stretch(dataset) as stretch:
            return line_at(stretch, offset)
    except FileNotFoundError:
        raise not_found("the dataset is not there") from None


def _listed(offset: int, length: int, data: bytes | None) -> RecordView | _TooLong | _Unreadable:
    if data is None:
        return _TooLong(offset, length)
    cut = _Cut(_LISTED_TEXT, _LISTED_MESSAGES, _LISTED_PARTS)
    try:
        return _view(_parsed(data), offset, length, cut, _of_dataset(offset))
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
        record = layouts.read(data, shard)
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


def _view(line: dict[str, Any], offset: int | None, length: int, cut: _Cut, src: Callable[[int], str]) -> RecordView:
    messages = _messages(line)
    metadata = line.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    before = max(0, len(messages) - cut.messages)
    hidden = sum(1 for _ in image_parts(messages[:before]))
    numbers = iter(range(hidden, 1 << 62))
    shown = [_message(message, cut, numbers, src) for message in messages[before:]]
    return RecordView(
        offset=offset,
        bytes=length,
        whole=cut.characters == _WHOLE,
        session=_text(about.get("run_id")),
        turn=_scalar(about.get("turn")),
        model=_name(about.get("model")),
        provider=_name(about.get("provider")),
        reward=_scalar(about.get("total_reward")),
        achievements=_scalar(about.get("achievements_count")),
        timestamp=_scalar(about.get("timestamp")),
        shard=_name(about.get("shard")),
        metadata=[_entry(key, value, cut) for key, value in about.items() if key not in _OWN_KEYS][: cut.parts],
        messages_before=before,
        messages=shown,
    )


def _entry(key: str, value: Any, cut: _Cut) -> _Entry:
    text = cut.text(value if isinstance(value, str) else _json(value))
    return _Entry(key, text.text, text.length, text.cut)


def _message(message: dict[str, Any], cut: _Cut, numbers: Iterator[int], src: Callable[[int], str]) -> _Message:
    content = message.get("content")
    if isinstance(content, str):
        parts: list[_Part] = [_text_part(content, cut)] if content else []
    elif isinstance(content, list):
        parts = [_part(part, cut, numbers, src) for part in content][: cut.parts]
    else:
        parts = [] if content is None else [_other(content, cut)]
    return _Message(
        role=_text(message.get("role")),
        parts=parts,
        tool_calls=_calls(message, cut),
        name=_name(message.get("name")),
        tool_call_id=_name(message.get("tool_call_id")),
    )


def _part(part: Any, cut: _Cut, numbers: Iterator[int], src: Callable[[int], str]) -> _Part:
    if not isinstance(part, dict):
        return _text_part(part, cut) if isinstance(part, str) else _other(part, cut)
    if _is_image(part):
        return _image_part(part, next(numbers), src, cut)
    if isinstance(part.get("text"), str):
        return _text_part(part["text"], cut)
    return _other(part, cut)


def _image_part(part: dict[str, Any], number: int, src: Callable[[int], str], cut: _Cut) -> _Part:
    url = remote_url(part)
    if url is not None:
        return _RemoteImagePart(cut.text(url).text)
    try:
        return _ImagePart(number, src(number), picture(part).media)
    except NoPictureError as error:
        return _RefusedImagePart(error.why, len(_json(part)))


def _text_part(text: str, cut: _Cut) -> _TextPart:
    shown = cut.text(text)
    return _TextPart(shown.text, shown.length, shown.cut)


def _other(value: Any, cut: _Cut) -> _OtherPart:
    shown = cut.text(_json(value))
    return _OtherPart(shown.text, shown.length, shown.cut)


def _calls(message: dict[str, Any], cut: _Cut) -> list[_ToolCall]:
    return [_call(call, cut) for call in _list(message.get("tool_calls"))[: cut.parts] if isinstance(call, dict)]


def _call(call: dict[str, Any], cut: _Cut) -> _ToolCall:
    function = call.get("function")
    about = function if isinstance(function, dict) else {}
    raw = about.get("arguments")
    shown = cut.text(raw if isinstance(raw, str) else "" if raw is None else _json(raw))
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


def _in_short(part: Any) -> str:
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
    """Return a value that stands for one thing, as it is; a list or an object as text."""
    if isinstance(value, str):
        return value[:_LISTED_TEXT]
    return _json(value)[:_LISTED_TEXT] if isinstance(value, list | dict) else value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
