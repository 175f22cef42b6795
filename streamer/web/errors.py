"""What a request may end with instead of an answer."""

from __future__ import annotations


class RefusedRequestError(Exception):
    """A request that is not answered. ``words`` are for the person who asked; they say nothing of our insides."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(status, words)
        self.status = status
        self.words = words


def not_found(words: str) -> RefusedRequestError:
    """Return the error for something that is not there."""
    return RefusedRequestError(404, words)
