"""Broken promises: the findings of a soak."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class BrokenPromise(msgspec.Struct, frozen=True):
    """A broken promise: ``kind`` is counted, ``where`` names a file or record, ``what`` is a sentence.

    The texts may quote any file name; make them printable before you show them.
    """

    kind: str
    where: str
    what: str


Complain = Callable[[BrokenPromise], None]
