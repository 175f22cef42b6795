"""Permissions of a fleet's users on its servers, as few as possible. Pure.

A collector publishes records and receives receipts: it can neither read nor remove the records of others. A writer
consumes records and sends receipts: it publishes none. The admin may do everything in the fleet's account.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streamer.config.fleet_names import Names


class Role(StrEnum):
    """Role of a user."""

    COLLECTOR = "collector"
    WRITER = "writer"
    ADMIN = "admin"


class Permissions(NamedTuple):
    """Subjects a user may publish and subscribe to; ``answers``: whether it may reply to requests."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def inbox_of(public: str) -> str:
    """Return the prefix of a user's reply subjects, by the public half of its key."""
    return f"_INBOX_{public}"


def permissions(role: Role, names: Names, name: str, inbox: str) -> Permissions:
    """Return the permissions of a user.

    Args:
        role: Role of the user.
        names: Names of the fleet.
        name: Host of the user, as :func:`streamer.config.fleet_names.host_name` returns it.
        inbox: Prefix of the user's own reply subjects.
    """
    match role:
        case Role.COLLECTOR:
            return Permissions(_collector(names, name), (f"{inbox}.>", names.receipt(f"{name}.*")))
        case Role.WRITER:
            heard = f"{names.prefix}.ask.{names.dataset}.*"
            return Permissions(_writer(names), (f"{inbox}.>", heard), answers=True)
        case Role.ADMIN:
            return Permissions((">",), (">",))


def _collector(names: Names, name: str) -> tuple[str, ...]:
    return (
        names.records,
        f"{names.prefix}.ask.{names.dataset}.*",
        names.alive(f"{name}.*"),
        f"$JS.API.STREAM.INFO.{names.stream}",
        f"$JS.API.STREAM.INFO.OBJ_{names.objects}",
        *_puts(names.objects),
    )


def _writer(names: Names) -> tuple[str, ...]:
    stream, owners = names.stream, f"KV_{names.owners}"
    return (
        names.receipt("*.*"),
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
        f"$JS.ACK.{stream}.>",
        f"$JS.API.STREAM.INFO.{owners}",
        f"$JS.API.STREAM.MSG.GET.{owners}",
        f"$KV.{names.owners}.*",
        "$JS.API.STREAM.NAMES",
        *_store(names.objects),
        *_store(names.keys),
    )


def _store(name: str) -> tuple[str, ...]:
    """Return the subjects needed to put, get and delete objects."""
    stream = f"OBJ_{name}"
    return (
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.STREAM.PURGE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.FC.{stream}.>",
        *_puts(name),
    )


def _puts(store: str) -> tuple[str, ...]:
    return f"$O.{store}.C.*", f"$O.{store}.M.*"
