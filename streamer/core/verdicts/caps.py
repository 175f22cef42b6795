"""Caps: their settings, and their names in verdicts and in the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

PROMPT = "prompt"
METADATA = "metadata."


class Cap(msgspec.Struct, frozen=True):
    """At most ``most`` records of one value of ``by``: "prompt", "run_id", or "metadata.KEY"."""

    by: str
    most: int

    @property
    def key(self) -> str | None:
        """Return the metadata key that it counts by, None for prompts."""
        return None if self.by == PROMPT else self.by.removeprefix(METADATA)


def metadata_keys(caps: Iterable[Cap], known: Collection[str]) -> tuple[str, ...]:
    """Return the metadata keys that caps count by, sorted, without the ``known`` ones."""
    return tuple(sorted({cap.key for cap in caps if cap.key is not None and cap.key not in known}))
