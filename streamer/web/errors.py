"""The error that ends a request."""

from __future__ import annotations


class RefusedRequestError(Exception):
    """A rejected request. ``words`` is the message to the user, without internals."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(status, words)
        self.status = status
        self.words = words


def not_found(words: str) -> RefusedRequestError:
    """Return the error for something that does not exist."""
    return RefusedRequestError(404, words)
