"""Resolve a trace database setting to a file or a server, and keep the secrets of its URL out of messages.

``http://`` and ``https://`` name a server. So do ``libsql://HOST`` and ``sqlite+libsql://HOST``, with TLS unless
``?tls=0`` or ``?secure=false`` disables it; without a host they name a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from streamer.base.errors import ConfigError
from streamer.base.secret import NO_SECRET, Secret

_HTTP = frozenset({"http", "https"})
_LIBSQL = frozenset({"libsql", "sqlite+libsql"})
_WEBSOCKETS = {"ws": "http", "wss": "https"}
_LOCAL = frozenset({"sqlite", "sqlite+aiosqlite", "sqlite+pysqlite", "file"})
_SQLD = Path("dbs") / "default" / "data"
_PLAIN = {"tls": frozenset({"0", "false"}), "secure": frozenset({"0", "false"})}
_TOKEN = re.compile(r"([?&])auth_?token=([^&#]*)&?", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True)
class Server:
    """A server with a trace database.

    ``url`` is the ``http`` or ``https`` URL with host, port and path only. ``shown`` is its form in messages, with the
    scheme as the user wrote it.
    """

    url: str
    shown: str
    name: str
    token: Secret = NO_SECRET

    def __str__(self) -> str:
        return self.shown


def locate(database: str, token: Secret = NO_SECRET) -> Path | Server:
    """Return the file or the server that a trace database setting names.

    Args:
        database: A path or a URL.
        token: The token to show to a server.

    Raises:
        ConfigError: The URL names a server that cannot be read. The message has no secrets.
    """
    return server_of(database, token) or local_path(database)


def local_path(database: str) -> Path:
    """Return the file that a trace database setting names, if it names no server.

    Args:
        database: A path; the directory of sqld; or a URL as SQLAlchemy writes it
            (``sqlite+aiosqlite:///relative``, ``sqlite+aiosqlite:////absolute``, ``file:...``).
    """
    scheme, colon, rest = database.partition(":")
    if not colon or scheme not in _LOCAL | _LIBSQL:
        path = database
    else:
        path = unquote(rest.partition("?")[0].partition("#")[0])
        if path.startswith("//"):
            # Three slashes: relative, four: absolute. But file: URLs have an absolute path after two.
            path = path[2:] if scheme == "file" else path[3:]
    file = Path(path).expanduser()
    return file / _SQLD if file.is_dir() else file


def server_of(database: str, token: Secret = NO_SECRET) -> Server | None:
    """Return the server that a trace database setting names; None if it names a file.

    Args:
        database: A path or a URL. A token in the URL (``authToken``) takes precedence over ``token``.
        token: The token to show to the server.

    Raises:
        ConfigError: The URL names a server that cannot be read. The message has no secrets.
    """
    scheme = database.partition(":")[0]
    if scheme in _WEBSOCKETS:
        _refuse(database, f"{scheme}:// is no way to a server here", f"write {_WEBSOCKETS[scheme]}:// instead")
    if scheme not in _HTTP | _LIBSQL:
        return None
    try:
        parts = urlsplit(database)
        host, _port = parts.hostname, parts.port
    except ValueError:
        _refuse(database, "it is no URL", "such as https://HOST or libsql://HOST")
    if not parts.netloc and scheme in _LIBSQL:
        return None
    if not host:
        _refuse(database, "it names no host", "such as https://HOST or libsql://HOST")
    if "@" in parts.netloc:
        _refuse(database, "it holds a user name or a password", "put the token into TURSO_AUTH_TOKEN instead")
    query = parse_qs(parts.query)
    is_plain = scheme == "http" or (
        scheme in _LIBSQL and any(query.get(key, [""])[-1].lower() in off for key, off in _PLAIN.items())
    )
    path = parts.path.rstrip("/")
    _, own_token = split_token(database)
    return Server(
        url=f"{'http' if is_plain else 'https'}://{parts.netloc}{path}",
        shown=f"{scheme}://{parts.netloc}{path}",
        name=host,
        token=own_token or token,
    )


def split_token(database: str) -> tuple[str, Secret]:
    """Return a trace database setting without the token in its URL, and that token; paths have none."""
    found = _TOKEN.search(database) if "://" in database else None
    if found is None:
        return database, NO_SECRET
    return _TOKEN.sub(r"\1", database).rstrip("?&"), Secret(found[2])


def without_secrets(text: str) -> str:
    """Return a trace database setting with ``***`` for a token or a password in it."""
    return _USER.sub("***@", _TOKEN.sub(lambda found: f"{found[1]}authToken=***", text))


def _refuse(database: str, cause: str, hint: str) -> NoReturn:
    raise ConfigError("use the trace database", without_secrets(database), cause, hint) from None
