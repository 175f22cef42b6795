"""Errors that leave a module: operation, place, cause, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class StreamerError(Exception):
    """An error that a person can act on.

    Args:
        op: The operation that failed, as a verb phrase ("open the ledger").
        where: The file, key or table of the operation.
        cause: The cause, in one sentence.
        hint: The way out, if possible as a command.

    ``retry`` says whether the operation can succeed later without manual action: the daemon backs off and retries.
    ``exit_code`` is the exit status of a command that ends with this error.
    """

    retry: ClassVar[bool] = False
    exit_code: ClassVar[int] = 3

    def __init__(self, op: str, where: str, cause: str, hint: str = "") -> None:
        super().__init__(op, where, cause, hint)
        self.op = op
        self.where = where
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        text = f"cannot {self.op}: {self.where}: {self.cause}"
        return f"{text}\n  what to do: {self.hint}" if self.hint else text


class ConfigError(StreamerError):
    """A key or value of the configuration is invalid."""

    exit_code = 2


class UnavailableError(StreamerError):
    """Something outside is unavailable now and may come back: a folder, a database, room on a disk."""

    retry = True


class RefusedError(StreamerError):
    """Continuing could break a guarantee (a dataset shorter than its ledger, say): manual action is required."""

    exit_code = 5


class LockedError(StreamerError):
    """Another daemon holds this dataset."""

    exit_code = 4


class MissingExtraError(StreamerError):
    """An optional dependency is missing; the hint names the extra."""

    exit_code = 2


class translate_errors:  # noqa: N801 - reads as a phrase at the `with`
    """Raise a StreamerError in place of the given exceptions of a block.

    Args:
        op: What the block does, as a verb phrase.
        where: The file or folder that it does it to.
        hint: What to do, or a function that returns it for an exception.
        errors: The exceptions to replace.
        kind: The class of the new exception.
    """

    def __init__(
        self,
        op: str,
        where: object,
        hint: str | Callable[[Exception], str] = "",
        errors: type[Exception] | tuple[type[Exception], ...] = OSError,
        kind: type[StreamerError] = UnavailableError,
    ) -> None:
        self._new = op, where, hint
        self._errors = errors
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, self._errors):
            op, where, hint = self._new
            cause = getattr(error, "strerror", None) or str(error)
            raise self._kind(op, str(where), cause, hint if isinstance(hint, str) else hint(error)) from error
