"""Messages in flight: published to the stream and not acknowledged yet; and the stream's acknowledgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streamer.fleet.message import HEADER_BYTES, Message

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_MOST = 512
_MOST_BYTES = 8 << 20
"""Limits of what is in flight; a single line may be larger."""


class InFlight(msgspec.Struct):
    """A published message, until the stream acknowledges it; ``failed``: the stream refused it."""

    partition: int
    offset: int
    key: bytes
    attempt: int
    message: Message
    since: float = 0.0
    failed: bool = False

    @property
    def dedup_id(self) -> str:
        """The id under which the stream accepts it once: the record's key; without a record, the line's identity."""
        one = self.message.id
        again = f".{self.attempt}" if self.attempt else ""
        if self.message.is_record:
            return f"{self.key.hex()}{again}"
        return f"{one.epoch}.{self.partition}.{one.sequence}{again}"


class InFlightMessages(dict[str, InFlight]):
    """All messages in flight, by the token of their reply subject."""

    _bytes = 0

    def __setitem__(self, token: str, flight: InFlight) -> None:
        """Add a message."""
        self._bytes += len(flight.message.body)
        super().__setitem__(token, flight)

    def remove(self, token: str) -> InFlight:
        """Remove a message, and return it."""
        flight = super().pop(token)
        self._bytes -= len(flight.message.body)
        return flight

    def remove_all(self) -> list[InFlight]:
        """Remove all messages, and return them."""
        return [self.remove(token) for token in list(self)]

    @property
    def is_full(self) -> bool:
        """Say whether nothing more may be published now."""
        return len(self) >= _MOST or self._bytes >= _MOST_BYTES

    def exceed(self, most_bytes: int) -> bool:
        """Say whether a message is larger than the servers accept."""
        return any(len(flight.message.body) + HEADER_BYTES > most_bytes for flight in self.values())


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class PublishAck(msgspec.Struct):
    """The stream's answer to a message: the sequence it assigned, or the error for which it refused the message."""

    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None

    @property
    def code(self) -> int:
        """Number of the error; 0 if there is none."""
        return self.error.err_code if self.error else 0

    @property
    def cause(self) -> str:
        """Why the message was refused."""
        return self.error.description if self.error else "no stream takes them now"

    @classmethod
    def of(cls, msg: Msg) -> PublishAck:
        """Decode an answer; one without data says that no stream listens."""
        try:
            return msgspec.json.decode(msg.data, type=cls) if msg.data else cls()
        except msgspec.MsgspecError:
            return cls()
