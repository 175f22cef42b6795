"""Sample records for a page, read from their places. Limits apply, and the page names the parts left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from streamer.commands.report.gather import RecordPlace, texts_of
from streamer.core.records.images import embedded
from streamer.core.records.schema import check_line, image_parts, tool_calls
from streamer.store.parts.files import DatasetFiles, open_dataset

CHARACTERS = 1_500
"""The most characters of one text. Texts, images and messages beyond the limits are left out."""

MESSAGES = 10
_CALLS = 8
IMAGES = 4
"""The most images of one record."""

_IMAGE_BYTES = 1 << 20
_PAGE_IMAGE_BYTES = 8 << 20
_LINE_BYTES = 64 << 20
_VALUE = 120


class Shown(msgspec.Struct, frozen=True):
    """A text, and the number of its characters that were left out."""

    text: str
    left_out: int = 0


class ShownMessage(msgspec.Struct, frozen=True):
    """One message. ``calls`` are (name, arguments), ``images`` data URLs, ``left_out`` names the parts left out."""

    role: str
    text: Shown
    calls: list[tuple[str, Shown]]
    images: list[str]
    left_out: list[str]


class ShownRecord(msgspec.Struct, frozen=True):
    """One record; ``left_out`` is the number of messages left out after the first two."""

    line: int
    facts: dict[str, str]
    messages: list[ShownMessage]
    left_out: int = 0
    unread: str = ""


class _Budget:
    """The bytes of images that the page has room for, in all and for one image."""

    def __init__(self, page: int, image: int) -> None:
        self.left = page
        self.image = image


def read_samples(
    dataset: Path,
    places: Sequence[RecordPlace],
    *,
    page_bytes: int = _PAGE_IMAGE_BYTES,
    image_bytes: int = _IMAGE_BYTES,
) -> list[ShownRecord]:
    """Read the records at some places, and reduce them for the page. Memory holds one whole record at a time.

    Args:
        dataset: The dataset.
        places: The places of the records.
        page_bytes: The most bytes of all images.
        image_bytes: The most bytes of one image.

    Raises:
        OSError: the dataset cannot be read.
    """
    budget = _Budget(page_bytes, image_bytes)
    with open_dataset(dataset) as files:
        return [_record(files, place, budget) for place in places]


def _record(files: DatasetFiles, place: RecordPlace, budget: _Budget) -> ShownRecord:
    if place.length > _LINE_BYTES:
        return ShownRecord(place.number, {}, [], unread=f"it is {place.length:,} bytes long")
    checked = check_line(files.read(place.length, place.offset))
    if not checked.messages:
        return ShownRecord(place.number, {}, [], unread="the dataset was replaced meanwhile")
    keys = ("run_id", "turn", "total_reward", "model", "timestamp")
    facts = {key: _value(checked.metadata.get(key)) for key in keys}
    messages, last = checked.messages, MESSAGES - 2
    kept = messages if len(messages) <= MESSAGES else [*messages[:2], *messages[-last:]]
    images = [IMAGES]
    return ShownRecord(
        place.number, facts, [_message(message, budget, images) for message in kept], len(messages) - len(kept)
    )


def _message(message: dict[str, Any], budget: _Budget, images: list[int]) -> ShownMessage:
    calls = list(tool_calls(message))
    left_out = [f"{len(calls) - _CALLS:,} more tool calls"] if len(calls) > _CALLS else []
    shown: list[str] = []
    for _, part in image_parts([message]):
        why = _add_image(part, budget, images, shown)
        left_out += [f"an image: {why}"] if why else []
    return ShownMessage(
        role=_value(message.get("role")),
        text=_cut("\n".join(texts_of(message.get("content")))),
        calls=[(name[:_VALUE], _cut(_pretty(arguments))) for name, arguments in calls[:_CALLS]],
        images=shown,
        left_out=left_out,
    )


def _add_image(part: dict[str, Any], budget: _Budget, images: list[int], shown: list[str]) -> str:
    """Add an image to ``shown``, or return the reason why it is left out."""
    if images[0] <= 0:
        return f"there are more than {IMAGES} in this record"
    found = embedded(part, budget.image)
    if found.why:
        return found.why
    if len(found.url) > budget.left:
        return "the page is full"
    images[0] -= 1
    budget.left -= len(found.url)
    shown.append(found.url)
    return ""


def _pretty(arguments: str) -> str:
    """Return the arguments of a call, indented if they are short JSON."""
    if len(arguments) > CHARACTERS:
        return arguments
    try:
        return msgspec.json.format(arguments, indent=2)
    except (msgspec.MsgspecError, RecursionError):
        return arguments


def _cut(text: str) -> Shown:
    return Shown(text[:CHARACTERS], max(0, len(text) - CHARACTERS))


def _value(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "-" if value is None else str(value)[:_VALUE]
