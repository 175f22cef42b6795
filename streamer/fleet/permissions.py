"""What each kind of user of a fleet may do on its servers, and no more. Pure.

A collector publishes and hears receipts: it can neither read nor remove what others have sent. A writer takes records
and gives receipts: it publishes none. Whoever sets the fleet up may do everything in its account.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streamer.config.fleet_names import Names


class Role(StrEnum):
    """What a user is there for."""

    COLLECTOR = "collector"
    WRITER = "writer"
    ADMIN = "admin"


class Permissions(NamedTuple):
    """Subjects that a user may publish to and hear; ``answers``: whether it may answer what it is asked."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def inbox_of(public: str) -> str:
    """Return the prefix of the subjects at which a user gets answers, by the public half of its key."""
    return f"_INBOX_{public}"


def permissions(role: Role, names: Names, name: str, inbox: str) -> Permissions:
    """Return what a user may do.

    Args:
        role: what it is there for.
        names: of the fleet.
        name: of the user's host, as :func:`streamer.config.fleet_names.host_name` has it.
        inbox: the prefix of the subjects at which it alone gets answers.
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
    """Return what it takes to put objects, to get them, and to delete them."""
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
