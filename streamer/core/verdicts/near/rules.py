"""When do two records nearly equal each other? The settings, and the name under which a ledger remembers them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

_SIGNATURE_VERSION = 1
"""Part of every ledger with signatures: with another number, all of them are computed again from the dataset."""


class Scope(StrEnum):
    """Whose words are compared."""

    CONVERSATION = "conversation"
    REPLY = "reply"
    USER = "user"


class Near(msgspec.Struct, frozen=True):
    """What is compared, and how alike is too much. Off unless ``threshold`` or ``images`` is set.

    ``threshold`` is the Jaccard similarity of the sets of ``ngram`` consecutive words from which on texts are near.
    ``images`` are the bits of 256 in which two images may differ and still look the same. ``keep`` is how many
    records of the dataset, the newest ones, a new one is compared with.
    """

    threshold: float | None = None
    ngram: int = 5
    scope: Scope = Scope.CONVERSATION
    images: int | None = None
    keep: int = 100_000

    @property
    def is_on(self) -> bool:
        """Say whether anything is compared."""
        return self.threshold is not None or self.images is not None

    def meaning(self, algorithm: int) -> str:
        """Return the name of what signatures mean; ``algorithm`` is the version of how texts are hashed."""
        text = f"{self.ngram}-grams/{algorithm}" if self.threshold is not None else "no text"
        return f"{_SIGNATURE_VERSION}/{self.scope}/{text}/{'no images' if self.images is None else 'images'}"
