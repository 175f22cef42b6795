"""What is asked of caps: the settings, and the names under which verdicts and ledger know them."""

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
        """Return the key of the line's metadata that it counts by, None for prompts."""
        return None if self.by == PROMPT else self.by.removeprefix(METADATA)


def metadata_keys(caps: Iterable[Cap], known: Collection[str]) -> tuple[str, ...]:
    """Return the keys of metadata that caps count by and that are not among the ``known`` ones, in order."""
    return tuple(sorted({cap.key for cap in caps if cap.key is not None and cap.key not in known}))
