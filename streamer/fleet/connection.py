"""Connections to a fleet's servers. A lost one stays lost: its users open another one.

The client neither reconnects nor sends again: its users alone decide on waiting, sending again and reporting.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from streamer.base.errors import ConfigError, MissingExtraError, UnavailableError
from streamer.base.text import printable
from streamer.config.database_url import without_secrets
from streamer.config.fleet_names import FORMAT, META_DEDUP, META_FORMAT, META_PARTITIONS, Names
from streamer.config.fleet_table import MOST_PARTITIONS, Fleet
from streamer.fleet.permissions import inbox_of

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

CONNECT = "reach the fleet"
LOOK_UP = "look up the stream of the fleet"
USE = "use the stream of the fleet"
"""Operations that fail while there is no connection."""

INSTALL = "install the extra `fleet` (in a checkout: pip install '.[fleet]')"
"""Hint where a package of the extra is missing."""

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_PENDING = 4 << 20
"""Bytes buffered for the socket before a publisher has to wait."""

_LONGEST_CAUSE = 300
_HINT = "see [fleet] servers, and whether nats-server runs there; it is retried"


class Link:
    """A connection, until ``lost`` is set. ``complaint`` is the last error that a server reported without ending it."""

    def __init__(self, client: Client, lost: anyio.Event, where: str) -> None:
        self.client = client
        self.lost = lost
        self.where = where
        self.complaint = ""

    @property
    def js(self) -> JetStreamContext:
        """JetStream of the servers."""
        return self.client.jetstream(timeout=_ANSWER_SECONDS)

    @property
    def most_bytes(self) -> int:
        """Maximum bytes of a message, headers included."""
        return int(self.client.max_payload)


class Stream(msgspec.Struct, frozen=True):
    """Properties of a fleet's stream. ``incarnation`` changes when the stream is created anew."""

    partitions: int
    dedup: str
    incarnation: str


@asynccontextmanager
async def connected(fleet: Fleet, who: str) -> AsyncIterator[Link]:
    """Connect to one of the servers.

    Args:
        fleet: Addresses and credentials.
        who: Name of the connection on the servers.

    Raises:
        MissingExtraError: The client is not installed.
        ConfigError: A file of the credentials cannot be used.
        UnavailableError: No server can be reached now, or accepts the connection.
    """
    nats = client_package()
    where = ", ".join(without_secrets(server) for server in fleet.servers)
    lost = anyio.Event()
    link = Link(nats.aio.client.Client(), lost, where)

    async def complain(error: Exception) -> None:
        link.complaint = _cause(error)

    async def closed() -> None:
        lost.set()

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each end of a connection with TLS
    options = _options(fleet)
    try:
        with anyio.fail_after(_CONNECT_SECONDS):
            await link.client.connect(
                servers=list(fleet.servers),
                name=who,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of each server; otherwise it would never give up
                reconnect_time_wait=0,
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=_PENDING,
                error_cb=complain,
                disconnected_cb=closed,
                closed_cb=closed,
                **options,
            )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        await _close(link)
        cause = link.complaint if isinstance(error, nats.errors.NoServersError) and link.complaint else _cause(error)
        raise UnavailableError(CONNECT, where, cause, _HINT) from None
    try:
        yield link
    finally:
        await _close(link)


async def stream_of(link: Link, names: Names) -> Stream:
    """Look up the stream of a fleet.

    Raises:
        ConfigError: The stream is of another version of streamer, or `streamer fleet init` did not create it.
        UnavailableError: The stream does not exist yet, or the servers do not answer.
    """
    nats = client_package()
    try:
        info = await link.js.stream_info(names.stream)
    except nats.js.errors.NotFoundError:
        hint = "make it with `streamer fleet init`; it is waited for"
        raise UnavailableError(LOOK_UP, names.stream, "there is no such stream", hint) from None
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise UnavailableError(LOOK_UP, names.stream, link.complaint or _cause(error), _HINT) from None
    return _read(info, names)


def _read(info: StreamInfo, names: Names) -> Stream:
    said: Mapping[str, str] = info.config.metadata or {}
    hint = "see `streamer fleet init`"
    if said.get(META_FORMAT) != FORMAT:
        cause = f"its format is {printable(str(said.get(META_FORMAT)))}, this streamer knows {FORMAT}"
        raise ConfigError(USE, names.stream, cause, hint)
    partitions = said.get(META_PARTITIONS, "")
    if not (partitions.isascii() and partitions.isdigit() and 1 <= int(partitions) <= MOST_PARTITIONS):
        raise ConfigError(USE, names.stream, "its metadata do not say how many buckets there are", hint)
    return Stream(int(partitions), said.get(META_DEDUP, ""), str(info.created))


@contextmanager
def answered(link: Link, op: str, where: str, hint: str = _HINT, missing: str = "") -> Iterator[None]:
    """Translate errors and timeouts of the servers.

    Args:
        link: The link in use.
        op: The operation.
        where: Its object.
        hint: How to proceed.
        missing: Cause to report if the object does not exist; without it, the client's error is raised.

    Raises:
        UnavailableError: With the words of the servers.
    """
    nats = client_package()
    try:
        yield
    except (OSError, TimeoutError, nats.errors.Error) as error:
        is_missing = isinstance(error, nats.js.errors.NotFoundError)
        if (is_missing and not missing) or isinstance(error, nats.js.errors.KeyWrongLastSequenceError):
            raise
        said = getattr(error, "description", None)
        cause = missing if is_missing else link.complaint or _cause(Exception(said) if said else error)
        raise UnavailableError(op, where, cause, hint) from None


def check_dedup(stream: Stream, names: Names, by: str) -> None:
    """Check that ``dedup.by`` is the fleet's: otherwise the same record could be in two partitions.

    Raises:
        ConfigError: It differs.
    """
    if stream.dedup != by:
        cause = f'it is "{by}", and that of the fleet\'s stream {names.stream} is "{printable(stream.dedup)}"'
        raise ConfigError("use the configuration", "dedup.by", cause, "all hosts of a fleet need the same")


def unexpected(op: str, where: str, error: Exception) -> UnavailableError:
    """Translate an error that should not happen: a fault of streamer or of the client."""
    hint = "it is tried again; please report it"
    return UnavailableError(op, where, f"{type(error).__name__}: {_cause(error)}", hint)


def client_package() -> Any:
    """Return the package of the NATS client.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import nats  # noqa: PLC0415 - an extra
        import nats.aio.client  # noqa: PLC0415
        import nats.js.errors  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "nats":
            raise
        raise MissingExtraError(CONNECT, "nats", "it is not installed", INSTALL) from None
    return nats


def _options(fleet: Fleet) -> dict[str, Any]:
    """Return the client's options for credentials and TLS."""
    options: dict[str, Any] = {}
    if fleet.credentials is not None:
        options["user_credentials"] = str(_readable("credentials", fleet.credentials))
    if fleet.nkey is not None:
        options["nkeys_seed"] = str(_readable("nkey", fleet.nkey))
        options["inbox_prefix"] = inbox_of(_public_key(fleet.nkey))
    if fleet.tls_ca is not None or fleet.tls_cert is not None:
        options["tls"] = _tls(fleet)
    return options


def _readable(key: str, file: Any) -> Any:
    try:
        file.open("rb").close()
    except OSError as error:
        where = printable(str(file))
        raise ConfigError(CONNECT, where, error.strerror or str(error), f"see fleet.{key}") from None
    return file


def _public_key(seed: Path) -> str:
    """Return the public half of a user's key; it names the inbox that no other user may read."""
    try:
        import nkeys  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(CONNECT, "nkeys", "it is not installed", INSTALL) from None
    where = printable(str(seed))
    try:
        return str(nkeys.from_seed(seed.read_bytes().strip()).public_key.decode("ascii"))
    except (nkeys.NkeysError, OSError, ValueError) as error:
        raise ConfigError(CONNECT, where, f"it holds no seed of an nkey: {error!r}", "see fleet.nkey") from None


def _tls(fleet: Fleet) -> ssl.SSLContext:
    where = printable(", ".join(str(file) for file in (fleet.tls_ca, fleet.tls_cert, fleet.tls_key) if file))
    try:
        context = ssl.create_default_context(cafile=None if fleet.tls_ca is None else str(fleet.tls_ca))
        if fleet.tls_cert is not None:
            context.load_cert_chain(str(fleet.tls_cert), None if fleet.tls_key is None else str(fleet.tls_key))
    except (OSError, ValueError) as error:  # of ssl, too
        hint = "see fleet.tls_ca, fleet.tls_cert and fleet.tls_key"
        raise ConfigError(CONNECT, where, str(error), hint) from None
    return context


async def _close(link: Link) -> None:
    # All that matters was acknowledged before; a client whose TLS has failed would hang here.
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(Exception):
        await link.client.close()
    link.lost.set()


def _cause(error: BaseException) -> str:
    text = without_secrets(str(error)) or type(error).__name__
    return printable(" ".join(text.split())[:_LONGEST_CAUSE])
