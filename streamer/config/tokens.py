"""Tokens of the trace database's server and of the web UI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.secret import NO_SECRET, Secret, read_secret
from streamer.base.text import printable
from streamer.config.database_url import split_token
from streamer.config.settings import OP
from streamer.config.tables import Source, Web

TOKEN_CREDENTIAL = "turso-auth-token"  # noqa: S105 - its name
"""The systemd credential with the token for a server."""

_SHORTEST_TOKEN = 16


def without_token(source: Source, environ: Mapping[str, str]) -> Source:
    """Return the source with the token moved out of the URL; without one there, with that of the environment."""
    database, token = split_token(source.database)
    return msgspec.structs.replace(source, database=database, token=token or token_of(environ))


def with_token(web: Web, environ: Mapping[str, str]) -> Web:
    """Return the table of the web UI with its token, from the file or from systemd's credential.

    Raises:
        ConfigError: The token cannot be read, or is invalid; or there is none, and the address is not loopback.
    """
    if web.listen is None:
        return web
    file = web.token_file or _credential(environ)
    token = read_secret("read the token of the page", file, _SHORTEST_TOKEN) if file is not None else NO_SECRET
    if not token and not web.listen.is_loopback:
        raise ConfigError(
            OP,
            "web.listen",
            f"{web.listen} can be reached from other machines, and no token is set",
            "listen on 127.0.0.1, or make a token: (umask 077; openssl rand -hex 32 > FILE) and web.token_file = FILE",
        )
    return msgspec.structs.replace(web, token=token)


def _credential(environ: Mapping[str, str]) -> Path | None:
    """Return the file of systemd's credential (LoadCredential=web-token:FILE); None if there is none."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    file = Path(folder) / "web-token" if folder else None
    return file if file is not None and file.exists() else None


def token_of(environ: Mapping[str, str]) -> Secret:
    """Return the token for the trace database's server: TURSO_AUTH_TOKEN, or the credential of the service.

    Raises:
        ConfigError: There is a credential, but it cannot be read.
    """
    token, folder = environ.get("TURSO_AUTH_TOKEN", ""), environ.get("CREDENTIALS_DIRECTORY", "")
    if token or not folder:
        return Secret(token)
    file = Path(folder, TOKEN_CREDENTIAL)
    try:
        return Secret(file.read_text(encoding="utf-8").strip())
    except (FileNotFoundError, PermissionError):  # ExecStopPost gets the folder's name, but no files
        return NO_SECRET
    except (OSError, UnicodeDecodeError) as error:
        hint = "see LoadCredential= in the unit"
        raise ConfigError("read the token", printable(str(file)), str(error), hint) from None
