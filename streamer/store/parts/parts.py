"""The parts of a dataset that rolls: their names, when they are closed and removed, and the manifest that lists them.

::

    good-00001.jsonl   good-00002.jsonl   good.jsonl        good.jsonl.manifest.json
    closed: never changes again           live: grows       lists the closed ones, with their sums

A *place* counts bytes from the first line that was ever appended, whatever file the line is in by now: a part holds the
places from ``start`` to ``stop``, the live file those from the last ``stop`` on. What is taken out of a part leaves a
hole in its places and none in its file (``compaction.cuts``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from streamer.base.append_file import write_all
from streamer.base.files import Files, sync_folder
from streamer.store.parts.cuts import Cut, OffsetMap

_MANIFEST_VERSION = 1

COMPACTING = ".compacting"
"""How the name of a file ends that is to take the place of a part."""


class Part(msgspec.Struct, frozen=True):
    """One closed part. ``start`` and ``stop`` are places, ``closed_at`` is in seconds since 1970.

    ``lines`` and ``sha256`` are those of its file as it is now, after the ``cuts``.
    """

    number: int
    start: int
    stop: int
    lines: int
    sha256: str
    closed_at: float
    cuts: tuple[Cut, ...] = ()

    @property
    def bytes(self) -> int:
        """Return how long its file is."""
        return self.stop - self.start - sum(cut.size for cut in self.cuts)

    @property
    def offsets(self) -> OffsetMap:
        """Return the map between log offsets and offsets in its file."""
        return OffsetMap(self.start, self.cuts)


class Live(msgspec.Struct, frozen=True):
    """The live file: which number it gets when it is closed, where it begins, when its first line was appended."""

    number: int = 1
    start: int = 0
    opened_at: float | None = None


class RollRules(msgspec.Struct, frozen=True):
    """When the live file is closed: before it gets longer than this, or when it is older (seconds). None: never."""

    bytes: int | None = None
    records: int | None = None
    age: float | None = None

    @property
    def is_on(self) -> bool:
        """Say whether the dataset rolls."""
        return self != RollRules()


class RetainRules(msgspec.Struct, frozen=True):
    """How much of the dataset is kept; whole parts are removed, the oldest first, the live file never.

    ``forget_keys``: whether a record of a removed part may come in again.
    """

    bytes: int | None = None
    records: int | None = None
    age: float | None = None
    forget_keys: bool = False


def part_path(dataset: Path, number: int) -> Path:
    """Return where a part of ``dataset`` is once it is closed."""
    return dataset.with_name(f"{dataset.stem}-{number:05}{dataset.suffix}")


def compacting_path(dataset: Path, number: int) -> Path:
    """Return where that which is to take the place of a part is made."""
    part = part_path(dataset, number)
    return part.with_name(f"{part.name}{COMPACTING}")


def part_names(dataset: Path) -> re.Pattern[str]:
    """Return a pattern that matches the names of parts, and only those; its one group is the number."""
    return re.compile(rf"{re.escape(dataset.stem)}-(\d{{5}}|[1-9]\d{{5,}}){re.escape(dataset.suffix)}", re.ASCII)


def manifest_path(dataset: Path) -> Path:
    """Return where the manifest of ``dataset`` is."""
    return dataset.with_name(f"{dataset.name}.manifest.json")


def new_manifest_path(dataset: Path) -> Path:
    """Return where a manifest is made, before it takes the place of the one that is there."""
    return dataset.with_name(f"{manifest_path(dataset).name}.new")


def closed_numbers(dataset: Path) -> list[int]:
    """Return the numbers of the parts that are there now, in order; none without a manifest."""
    if not manifest_path(dataset).exists():
        return []
    names = part_names(dataset)
    return sorted(int(match[1]) for entry in os.listdir(dataset.parent) if (match := names.fullmatch(entry)))


def newest_number(dataset: Path) -> int:
    """Return the number of the newest part that is there now, 0 if there is none."""
    return max(closed_numbers(dataset), default=0)


def first_number(dataset: Path) -> int:
    """Return the number from which parts are counted by a ledger that knows of none: no name is used twice."""
    there = closed_numbers(dataset)
    if there:
        return there[0]
    try:
        return max(1, msgspec.json.decode(manifest_path(dataset).read_bytes(), type=_Numbered).next)
    except (OSError, msgspec.MsgspecError):
        return 1


class _Numbered(msgspec.Struct):
    next: int


def expired(parts: Sequence[Part], live_bytes: int, live_records: int, rules: RetainRules, now: float) -> list[Part]:
    """Return the parts that are to be removed: the oldest ones, as few as make the rest fit. Pure.

    Args:
        parts: those that are there, in order.
        live_bytes: bytes of the live file, which count as well.
        live_records: its lines.
        rules: what may be kept.
        now: seconds since 1970.
    """
    size = live_bytes + sum(part.bytes for part in parts)
    records = live_records + sum(part.lines for part in parts)
    gone: list[Part] = []
    for part in parts:
        if not (
            (rules.bytes is not None and size > rules.bytes)
            or (rules.records is not None and records > rules.records)
            or (rules.age is not None and now - part.closed_at > rules.age)
        ):
            break
        gone.append(part)
        size -= part.bytes
        records -= part.lines
    return gone


def manifest(dataset: Path, parts: Sequence[Part], following: int) -> bytes:
    """Return what the manifest of a dataset with these parts says, ``following`` being the number of the next one."""
    document = {
        "version": _MANIFEST_VERSION,
        "live": dataset.name,
        "next": following,
        "parts": [_described(dataset, part) for part in parts],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _described(dataset: Path, part: Part) -> dict[str, object]:
    description: dict[str, object] = {
        "number": part.number,
        "path": part_path(dataset, part.number).name,
        "bytes": part.bytes,
        "records": part.lines,
        "sha256": part.sha256,
        "closed_at": datetime.fromtimestamp(part.closed_at, UTC).isoformat(timespec="seconds"),
    }
    return description | ({"cuts": part.cuts} if part.cuts else {})


class _ListedPart(msgspec.Struct):
    number: int
    cuts: tuple[Cut, ...] = ()


class _Listed(msgspec.Struct):
    parts: list[_ListedPart]


def listed_cuts(dataset: Path) -> dict[int, tuple[Cut, ...]]:
    """Return what was taken out of parts, by their number, as far as the manifest of a dataset says so."""
    try:
        listed = msgspec.json.decode(manifest_path(dataset).read_bytes(), type=_Listed).parts
    except (OSError, msgspec.MsgspecError):
        return {}
    return {part.number: part.cuts for part in listed if part.cuts}


def write_manifest(dataset: Path, content: bytes, files: Files, failpoint: Callable[[str], None]) -> None:
    """Put a manifest in the place of the one that is there, all at once and durably; equal ones are left alone."""
    path = manifest_path(dataset)
    if path.exists() and path.read_bytes() == content:
        return
    new = new_manifest_path(dataset)
    files.unlink(new)
    fd = files.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        write_all(files, fd, content)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    failpoint("manifest written")
    files.rename(new, path)
    sync_folder(files, path.parent)
