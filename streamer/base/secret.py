"""Secrets, which no output shows."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from streamer.base.errors import ConfigError
from streamer.base.text import printable

_LONGEST = 4096
_WORD = re.compile(rb"[!-~]+")


class Secret:
    """Holds a secret; prints, logs and errors show it as ``***``.

    Args:
        value: The secret, empty for none.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def hidden_in(self, text: str) -> str:
        """Return a text with each occurrence of the secret hidden."""
        return text.replace(self._value, str(self)) if self._value else text

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "***" if self._value else ""


NO_SECRET = Secret()


def read_secret(op: str, file: Path, shortest: int) -> Secret:
    """Return the secret in a file, without the white space around it.

    Args:
        op: Purpose of the secret, for the error.
        file: The file.
        shortest: Least number of characters; a shorter secret is too easy to guess.

    Raises:
        ConfigError: the file cannot be read, others can read it, or it does not hold one word that is long enough.
    """
    place = printable(str(file))
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigError(op, place, error.strerror or str(error), "see its path and its rights") from error
    if mode & stat.S_IROTH:
        raise ConfigError(op, place, "every user of this machine can read it", f"chmod 640 '{place}'")
    word = data.strip()
    if len(data) > _LONGEST or len(word) < shortest or not _WORD.fullmatch(word):
        raise ConfigError(
            op,
            place,
            f"it does not hold one word of {shortest} to {_LONGEST:,} printable ASCII characters",
            f"openssl rand -hex 32 > '{place}'",
        )
    return Secret(word.decode("ascii"))
