"""What a soak finds: a promise that was broken, and where."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class BrokenPromise(msgspec.Struct, frozen=True):
    """A promise that was broken: ``kind`` is counted, ``where`` names the place, ``what`` is a sentence.

    Texts may quote file names as they are; whoever shows them makes them printable.
    """

    kind: str
    where: str
    what: str


Complain = Callable[[BrokenPromise], None]
