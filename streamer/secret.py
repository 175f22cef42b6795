"""A value that no output shows."""

from __future__ import annotations


class Secret:
    """Holds a secret; whoever prints it, logs it or puts it into an error gets ``***``.

    Args:
        value: the secret, empty for none.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def hidden_in(self, text: str) -> str:
        """Return a text without the secret, wherever that stands in it."""
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
