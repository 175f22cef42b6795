"""URLs of servers, the secrets in them, and the pauses between requests; no server is needed for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.base.errors import ConfigError, MissingExtraError
from streamer.base.secret import NO_SECRET, Secret
from streamer.config import TOKEN_CREDENTIAL, Flags, load, token_of
from streamer.config.database_url import Server, locate, server_of, split_token, without_secrets
from streamer.sources.condition import check_condition
from streamer.sources.libsql_process import LibsqlProcess
from streamer.sources.pace import LONGEST_PAUSE, Pace
from streamer.sources.remote_database import plain, unavailable
from streamer.sources.wake_ups import WakeUps
from tests.helpers.producer import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

# No word of a configuration is one, by whatever chance.
TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", min_size=12, max_size=60).map(
    "eyJ0{}".format
)


@pytest.mark.parametrize(
    ("setting", "url", "shown"),
    [
        ("http://host:8080", "http://host:8080", "http://host:8080"),
        ("https://host/", "https://host", "https://host"),
        ("https://host/db?x=1", "https://host/db", "https://host/db"),
        ("libsql://db-me.turso.io", "https://db-me.turso.io", "libsql://db-me.turso.io"),
        ("libsql://host:8080?tls=0", "http://host:8080", "libsql://host:8080"),
        ("libsql://host?tls=1", "https://host", "libsql://host"),
        ("sqlite+libsql://host/?secure=true", "https://host", "sqlite+libsql://host"),
        ("sqlite+libsql://host/?authToken=t&secure=false", "http://host", "sqlite+libsql://host"),
        ("http://[::1]:80", "http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_a_url_names_a_server(setting: str, url: str, shown: str) -> None:
    """With TLS or without; messages show the scheme as the user wrote it."""
    server = server_of(setting)
    assert server is not None
    assert (server.url, str(server)) == (url, shown)


@pytest.mark.parametrize(
    "setting", ["libsql:///a.db", "sqlite+libsql:////a.db", "a.db", "file:a.db", "sqlite:///a?authToken=x"]
)
def test_a_file_is_no_server(setting: str) -> None:
    """Three slashes are a path."""
    assert server_of(setting) is None


@pytest.mark.parametrize(
    "setting", ["ws://host?authToken=SECRET", "wss://host", "http://", "https://u:SECRET@host", "http://host:99999/?authToken=SECRET",
                "https://[x?authToken=SECRET", "http:host"],
)  # fmt: skip
def test_a_server_that_cannot_be_asked_is_refused_without_its_secrets(setting: str) -> None:
    """By the configuration, which names flag or variable."""
    with pytest.raises(ConfigError) as caught:
        locate(setting)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="--database") as caught:
        load(None, {}, Flags(shards="s", database=setting))
    assert "SECRET" not in str(caught.value)


def test_the_token_of_the_url_wins_and_the_configuration_keeps_it_apart() -> None:
    """The log and the ledger have the URL without it."""
    environ = {"TURSO_AUTH_TOKEN": "of the environment"}
    source = load(None, environ, Flags(shards="s", database="libsql://host?authToken=mine&tls=0")).source
    assert (source.database, source.token) == ("libsql://host?tls=0", Secret("mine"))
    source = load(None, environ, Flags(shards="s", database="libsql://host")).source
    assert source.token == Secret("of the environment")
    server = server_of("libsql://host", source.token)
    assert server is not None
    assert server.token.reveal() == "of the environment"


def test_the_token_is_the_credential_of_the_service_where_the_environment_has_none(tmp_path: Path) -> None:
    """The file has a newline at its end, as files do; one that is not there, or not shown, is no token."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert token_of(environ) == NO_SECRET
    (tmp_path / TOKEN_CREDENTIAL).write_text("mine\n")
    assert token_of(environ) == Secret("mine")
    assert token_of(environ | {"TURSO_AUTH_TOKEN": "other"}) == Secret("other")
    assert token_of({}) == NO_SECRET
    (tmp_path / TOKEN_CREDENTIAL).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=TOKEN_CREDENTIAL):
        token_of(environ)


@given(token=TOKENS)
def test_no_text_shows_a_token(token: str) -> None:
    """Not in errors of the configuration, of a server, or of libsql."""
    setting = f"libsql://host?authToken={token}"
    config = load(None, {"TURSO_AUTH_TOKEN": token}, Flags(shards="s", database=setting))
    server = server_of(setting)
    assert server is not None
    cause = plain(f"Hrana: `api error: `status=401 Unauthorized, body={token}``", server)
    error = unavailable("read outcomes", server, cause)
    for text in (
        repr(config),
        str(config),
        repr(server),
        str(server),
        repr(error),
        str(error),
        without_secrets(setting),
    ):
        assert token not in text
    assert split_token(setting) == ("libsql://host", Secret(token))


def test_a_secret_shows_itself_to_nobody() -> None:
    """And none is no secret."""
    assert (str(Secret("x")), repr(Secret("x")), str(NO_SECRET), bool(NO_SECRET)) == ("***", "***", "", False)
    assert Secret("x") == Secret("x") != Secret("y")
    assert {Secret("x"): 1}[Secret("x")] == 1


def test_without_the_extra_the_error_names_it() -> None:
    """It is no trouble that passes."""
    process = LibsqlProcess(Server("http://host", "http://host", "host"), 1.0, "read outcomes", lambda _: None)

    async def main() -> None:
        with pytest.raises(MissingExtraError, match="turso"):
            await process.ask("SELECT 1")

    anyio.run(main)


@pytest.mark.parametrize("where", ["1; DROP TABLE x", "nosuch) ; DROP TABLE outcome_rewards; --", "total_reward > 0;"])
def test_a_second_statement_is_no_condition(where: str) -> None:
    """Even if the first one names an unknown column, which alone would be accepted."""
    with pytest.raises(ConfigError):
        check_condition(where)


@pytest.mark.parametrize("where", ["session_id != ';'", "total_reward > 0 -- ; good", "total_reward /* ; */ > 0"])
def test_a_semicolon_in_a_text_or_a_comment_is_no_second_statement(where: str) -> None:
    """It is a character like others."""
    check_condition(where)


def test_pauses_grow_while_nothing_comes_and_fall_at_news() -> None:
    """From the interval to some seconds."""
    pace = Pace(FakeClock(), lambda: 0.5)
    pauses = [pace.next(0.1, found_new=False) for _ in range(20)]
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert pace.next(0.1, found_new=True) == 0.1
    pace.next(0.1, found_new=False)
    pace.hurry()
    assert pace.next(0.1, found_new=False) == 0.1
    assert pace.next(60.0, found_new=False) == 60.0


@given(random=st.floats(0, 1))
def test_pauses_after_failures_grow_and_differ(random: float) -> None:
    """Up to half a minute, however many there were; a success ends them."""
    clock = FakeClock()
    pace = Pace(clock, lambda: random)
    for n in range(100):
        pace.failed()
        longest = min(30.0, 0.5 * 2**n)
        assert longest / 2 <= pace.retry_in <= longest + 1e-9
    clock.advance(31)
    assert pace.retry_in == 0
    pace.failed()
    pace.worked()
    assert pace.retry_in == 0


def test_a_new_shard_is_a_sign_of_a_new_outcome_on_a_server(tmp_path: Path) -> None:
    """Nothing else announces it; beside a file, its own changes do."""
    remote, local = WakeUps(tmp_path, None), WakeUps(tmp_path, "traces.db")
    for hints in (remote, local):
        hints.shard(str(tmp_path / "a.jsonl"))
    assert remote.take().database
    assert not remote.take().database
    assert not local.take().database
