"""Near-duplicate settings, and the version of signatures that a ledger stores."""

from __future__ import annotations

from enum import StrEnum

import msgspec

_SIGNATURE_VERSION = 1
"""Version of the signatures. A ledger of another version computes all of them again from the dataset."""


class Scope(StrEnum):
    """The messages that are compared."""

    CONVERSATION = "conversation"
    REPLY = "reply"
    USER = "user"


class Near(msgspec.Struct, frozen=True):
    """The near-duplicate settings. Off unless ``threshold`` or ``images`` is set.

    ``threshold`` is the minimum Jaccard similarity of the sets of ``ngram`` consecutive words of near-duplicates.
    ``images`` are the bits of 256 in which two images may differ and still count as equal. A new record is compared
    with the newest ``keep`` records of the dataset.
    """

    threshold: float | None = None
    ngram: int = 5
    scope: Scope = Scope.CONVERSATION
    images: int | None = None
    keep: int = 100_000

    @property
    def is_on(self) -> bool:
        """Say whether near-duplicates are rejected."""
        return self.threshold is not None or self.images is not None

    def meaning(self, algorithm: int) -> str:
        """Return the version of the signatures; ``algorithm`` is that of the text hashes."""
        text = f"{self.ngram}-grams/{algorithm}" if self.threshold is not None else "no text"
        return f"{_SIGNATURE_VERSION}/{self.scope}/{text}/{'no images' if self.images is None else 'images'}"
