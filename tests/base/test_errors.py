"""The one translation of errors: what becomes of an exception of a block."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from streamer.base.errors import RefusedError, UnavailableError, translate_errors


def test_an_exception_becomes_an_error_with_place_cause_and_hint() -> None:
    """The error names operation and place, has the kernel's words as its cause, and the original one behind it."""
    original = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UnavailableError) as caught, translate_errors("write", Path("x"), "see `df`"):
        raise original
    error = caught.value
    assert (error.op, error.where, error.cause, error.hint) == ("write", "x", "No space left on device", "see `df`")
    assert error.__cause__ is original


def test_kind_and_hint_can_depend_on_the_exception() -> None:
    """Another kind of error can be raised, and the hint can be a function of the exception."""
    with pytest.raises(RefusedError) as caught, translate_errors("use", "x", repr, sqlite3.Error, RefusedError):
        raise sqlite3.DatabaseError("malformed")
    assert (caught.value.cause, caught.value.hint) == ("malformed", "DatabaseError('malformed')")


def test_other_exceptions_and_success_pass() -> None:
    """Nothing but the named exceptions is replaced."""
    with translate_errors("write", "x"):
        pass
    with pytest.raises(ValueError, match="untouched"), translate_errors("write", "x"):
        raise ValueError("untouched")
