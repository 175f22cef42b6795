"""Parts of a dataset that rotates: names, rules for closing and removing them, and the manifest that lists them.

::

    good-00001.jsonl   good-00002.jsonl   good.jsonl        good.jsonl.manifest.json
    closed: only compaction changes it    live: grows       lists the closed parts, with their checksums

A *log offset* counts bytes from the first line that was ever appended, whichever file the line is in now: a part holds
the log offsets from ``start`` to ``stop``, the live file those from the last ``stop`` on. Compaction leaves a hole in
the log offsets of a part, and none in its file (``cuts``).
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
"""Suffix of a file that will replace a part."""


class Part(msgspec.Struct, frozen=True):
    """One closed part. ``start`` and ``stop`` are log offsets, ``closed_at`` is in seconds since 1970.

    ``lines`` and ``sha256`` describe its file as it is now, after the ``cuts``.
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
        """Length of its file."""
        return self.stop - self.start - sum(cut.size for cut in self.cuts)

    @property
    def offsets(self) -> OffsetMap:
        """Map between log offsets and offsets in its file."""
        return OffsetMap(self.start, self.cuts)


class Live(msgspec.Struct, frozen=True):
    """The live file: its number once it is closed, its first log offset, and the time of its first append."""

    number: int = 1
    start: int = 0
    opened_at: float | None = None


class RollRules(msgspec.Struct, frozen=True):
    """Limits of the live file: it is closed before it exceeds one, ``age`` in seconds. None: no limit."""

    bytes: int | None = None
    records: int | None = None
    age: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether the dataset rotates."""
        return self != RollRules()


class RetainRules(msgspec.Struct, frozen=True):
    """Limits of the whole dataset: parts are removed, the oldest first, but never the live file.

    ``forget_keys``: whether a record of a removed part may be accepted again.
    """

    bytes: int | None = None
    records: int | None = None
    age: float | None = None
    forget_keys: bool = False


def part_path(dataset: Path, number: int) -> Path:
    """Return the path of a closed part."""
    return dataset.with_name(f"{dataset.stem}-{number:05}{dataset.suffix}")


def compacting_path(dataset: Path, number: int) -> Path:
    """Return the path at which the replacement of a part is written."""
    part = part_path(dataset, number)
    return part.with_name(f"{part.name}{COMPACTING}")


def part_names(dataset: Path) -> re.Pattern[str]:
    """Return a pattern that matches exactly the names of parts; its one group is the number."""
    return re.compile(rf"{re.escape(dataset.stem)}-(\d{{5}}|[1-9]\d{{5,}}){re.escape(dataset.suffix)}", re.ASCII)


def manifest_path(dataset: Path) -> Path:
    """Return the path of the manifest."""
    return dataset.with_name(f"{dataset.name}.manifest.json")


def new_manifest_path(dataset: Path) -> Path:
    """Return the path at which a new manifest is written, before it replaces the old one."""
    return dataset.with_name(f"{manifest_path(dataset).name}.new")


def closed_numbers(dataset: Path) -> list[int]:
    """Return the numbers of the closed parts that exist now, in order; none without a manifest."""
    if not manifest_path(dataset).exists():
        return []
    names = part_names(dataset)
    return sorted(int(match[1]) for entry in os.listdir(dataset.parent) if (match := names.fullmatch(entry)))


def newest_number(dataset: Path) -> int:
    """Return the number of the newest closed part, 0 if there is none."""
    return max(closed_numbers(dataset), default=0)


def first_number(dataset: Path) -> int:
    """Return the first number for a ledger that knows no parts, so that no name is used twice."""
    there = closed_numbers(dataset)
    if there:
        return there[0]
    return max(1, _read_manifest(dataset).next)


def expired(parts: Sequence[Part], live_bytes: int, live_records: int, rules: RetainRules, now: float) -> list[Part]:
    """Return the parts to remove: as few of the oldest as needed to meet the rules. Pure.

    Args:
        parts: The closed parts, in order.
        live_bytes: Bytes of the live file, which count as well.
        live_records: Lines of the live file.
        rules: The limits.
        now: Seconds since 1970.
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
    """Return the manifest of a dataset with these parts; ``following`` is the number of the next part."""
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


class _Manifest(msgspec.Struct):
    next: int = 1
    parts: list[_ListedPart] = []


def _read_manifest(dataset: Path) -> _Manifest:
    """Return the manifest of a dataset, an empty one if it cannot be read."""
    try:
        return msgspec.json.decode(manifest_path(dataset).read_bytes(), type=_Manifest)
    except (OSError, msgspec.MsgspecError):
        return _Manifest()


def listed_cuts(dataset: Path) -> dict[int, tuple[Cut, ...]]:
    """Return the cuts of parts by their number, as the manifest lists them; none if it cannot be read."""
    return {part.number: part.cuts for part in _read_manifest(dataset).parts if part.cuts}


def write_manifest(dataset: Path, content: bytes, files: Files, failpoint: Callable[[str], None]) -> None:
    """Replace the manifest atomically and durably, unless it is the same already."""
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
