"""The real commands against a real server: kills, TLS, tokens, and what they say."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.helpers.place import Place, ended, environment, until
from tests.helpers.producer import dialogue
from tests.helpers.traces import _TABLES as CONVERSATIONS
from tests.helpers.traces import make_conversations, payload, tool_reply
from tests.suites.remote.proxy import Proxy
from tests.suites.remote.sqld import Sqld

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RemotePlace(Place):
    """A place whose trace database is on a server; ``environ`` is what its commands find in the environment."""

    def __init__(self, folder: Path, url: str, **environ: str) -> None:
        self.url = url
        self.environ = environ
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def configure(self, text: str = "", source: str = "") -> None:
        """Write the configuration."""
        self.config.write_text(
            f'[source]\nshards = "shards"\ndatabase = "{self.url}"\nscan_interval = "200ms"\n{source}\n'
            f'[dataset]\npath = "good.jsonl"\n[log]\nformat = "json"\nlevel = "debug"\n{text}\n'
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.bare(*self._command(arguments)[3:])

    def bare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with no option but those that are given."""
        return subprocess.run(
            [sys.executable, "-m", "streamer", *arguments], cwd=self.folder, env=environment() | self.environ,
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    @contextmanager
    def daemon(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon until the test is through with it."""
        with super().daemon(*arguments, **self.environ, **environ) as process:
            yield process


def rollout(place: Place, sqld: Sqld, number: int, reward: int = 3) -> None:
    """End a rollout: its outcome, then its shard with two lines."""
    sqld.add_outcome(f"run-{number}", reward, 10.0 * number + 5)
    shard(place, number)


def shard(place: Place, number: int) -> None:
    """Write the shard of a rollout."""
    lines = [dialogue(f"run-{number}", turn, f"{number} {turn}", seconds=10.0 * number) for turn in range(2)]
    place.shard(f"run-{number}.jsonl", *lines)


def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path, sqld: Sqld) -> None:
    """SIGKILL and a new start, while rollouts arrive: with their outcome before the kill, during it, and after."""
    place = RemotePlace(tmp_path / "place", sqld.url)
    with place.daemon() as daemon:
        for kill in range(3):
            first = 6 * kill
            for number in range(first, first + 4):
                rollout(place, sqld, number, reward=number % 2)
            sqld.kill()
            shard(place, first + 4)
            shard(place, first + 5)
            until(lambda kill=kill: len(place.events("trouble")) > kill)  # type: ignore[misc]
            sqld.start()
            sqld.add_outcome(f"run-{first + 4}", 1, 10.0 * (first + 4) + 5)
            sqld.add_outcome(f"run-{first + 5}", 1, 10.0 * (first + 5) + 5)
            until(lambda kill=kill: place.holds(2 * 4 * (kill + 1)))  # type: ignore[misc]
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    good = {number for number in range(18) if number % 6 >= 4 or number % 2}
    assert sorted(place.texts()) == sorted(f"{number} {turn}" for number in good for turn in range(2))
    accounting = place.status()["accounting"]
    assert accounting == {"read": 36, "appended": 24, "duplicate": 0, "below_bar": 12, "waiting": 0,
                          "never_scored": 0, "dead_lettered": 0}  # fmt: skip


def test_shards_are_taken_while_the_server_is_silent(tmp_path: Path, sqld: Sqld, proxy: Proxy) -> None:
    """And a daemon that waits for an answer hears a signal."""
    proxy.is_silent = True
    place = RemotePlace(tmp_path / "place", proxy.url)
    rollout(place, sqld, 1)
    with place.daemon() as daemon:
        until(lambda: place.dataset.exists() and place.status()["accounting"]["waiting"] == 2)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0


def test_a_single_pass_reads_a_server(tmp_path: Path, sqld: Sqld) -> None:
    """Everything that is there, and then it ends."""
    place = RemotePlace(tmp_path / "place", sqld.url)
    for number in range(3):
        rollout(place, sqld, number, reward=number)
    done = place.once()
    assert done.returncode == 0, done.stderr
    assert len(place.records()) == 4


def test_a_single_pass_without_a_server_is_an_error(tmp_path: Path, sqld: Sqld) -> None:
    """It would look like success."""
    place = RemotePlace(tmp_path / "place", sqld.url)
    rollout(place, sqld, 1)
    sqld.kill()
    done = place.once()
    assert done.returncode == 3
    assert "Connection refused" in done.stderr


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    """Return a certificate authority that nobody knows."""
    return trustme.CA()


@pytest.fixture
def secure(sqld: Sqld, authority: trustme.CA) -> Iterator[Proxy]:
    """Return a TLS server before sqld, which has no TLS of its own for HTTP."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Proxy(sqld.port, context) as proxy:
        yield proxy


@pytest.mark.parametrize("scheme", ["https", "libsql", "sqlite+libsql"])
def test_tls_with_an_authority_of_our_own(
    tmp_path: Path, sqld: Sqld, secure: Proxy, authority: trustme.CA, scheme: str
) -> None:
    """SSL_CERT_FILE names it."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = f"{scheme}://localhost:{secure.port}"
    place = RemotePlace(tmp_path / "place", url, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    rollout(place, sqld, 1)
    done = place.once()
    assert done.returncode == 0, done.stderr
    assert len(place.records()) == 2


@pytest.mark.parametrize(
    ("url", "environ", "says"),
    [
        ("https://localhost:{tls}", {}, "UnknownIssuer"),
        ("https://127.0.0.1:{tls}", {"SSL_CERT_FILE": "CA"}, "NotValidForName"),
        ("https://localhost:{tls}", {"SSL_CERT_FILE": "/nowhere"}, "platform certs"),
        ("https://localhost:{plain}", {}, "InvalidContentType"),
    ],
)
def test_tls_that_cannot_be_trusted_is_said_with_what_helps(
    tmp_path: Path, sqld: Sqld, secure: Proxy, authority: trustme.CA, url: str, environ: dict[str, str], says: str
) -> None:
    """Nothing is read, and no token is sent."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    values = {key: value.replace("CA", str(tmp_path / "ca.pem")) for key, value in environ.items()}
    place = RemotePlace(tmp_path / "place", url.format(tls=secure.port, plain=sqld.port), **values)
    rollout(place, sqld, 1)
    done = place.call("doctor")
    assert done.returncode == 1
    assert says in done.stdout
    assert "SSL_CERT_FILE" in done.stdout or "http://" in done.stdout


# -- tokens --------------------------------------------------------------------------------------------------


class Guard:
    """Makes tokens, and the key that a server knows them by."""

    def __init__(self, folder: Path) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.file = folder / "jwt-key"
        self.file.write_text(_base64(self._key.public_key().public_bytes_raw()))
        self.token = self.signed({"a": "rw"})

    def signed(self, claims: dict[str, Any]) -> str:
        """Return a token that says something, signed."""
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "EdDSA", "typ": "JWT"}, claims)]
        text = ".".join(parts)
        return f"{text}.{_base64(self._key.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """Return what makes tokens."""
    return Guard(tmp_path)


@pytest.fixture
def guarded(tmp_path: Path, guard: Guard) -> Iterator[Sqld]:
    """Return a server that wants a token."""
    with Sqld(tmp_path / "guarded", "--auth-jwt-key-file", str(guard.file), token=guard.token) as server:
        server.make_tables()
        yield server


def test_a_token_is_taken_from_the_environment_or_the_url(tmp_path: Path, guarded: Sqld, guard: Guard) -> None:
    """The one in the URL wins."""
    wrong = Guard(tmp_path).token
    for name, url, token in [
        ("environment", guarded.url, guard.token),
        ("url", f"{guarded.url}/?authToken={guard.token}", wrong),
    ]:
        place = RemotePlace(tmp_path / name, url, TURSO_AUTH_TOKEN=token)
        rollout(place, guarded, 1)
        done = place.once()
        assert done.returncode == 0, done.stderr
        assert len(place.records()) == 2


@pytest.mark.parametrize(("has_token", "says"), [(True, "does not accept the token"), (False, "wants a token")])
def test_a_token_that_is_wrong_or_missing_is_said_with_its_name(
    tmp_path: Path,
    guarded: Sqld,
    has_token: bool,  # noqa: FBT001
    says: str,
) -> None:
    """Once, while the daemon goes on trying."""
    place = RemotePlace(tmp_path / "place", guarded.url, TURSO_AUTH_TOKEN=Guard(tmp_path).token if has_token else "")
    with place.daemon():
        until(lambda: place.events("trouble"))
        (trouble,) = place.events("trouble")
        assert says in json.dumps(trouble)
        assert "TURSO_AUTH_TOKEN" in json.dumps(trouble)


def test_no_output_and_no_file_ever_shows_the_token(tmp_path: Path, guarded: Sqld, guard: Guard) -> None:
    """Whatever is asked, right or wrong, with a good token in the URL or a refused one in the environment."""
    forged = Guard(tmp_path).token
    outputs = []
    for name, token, in_url in [("good", guard.token, True), ("refused", forged, False)]:
        url = f"{guarded.url}?authToken={token}" if in_url else guarded.url
        place = RemotePlace(tmp_path / "places" / name, url, **({} if in_url else {"TURSO_AUTH_TOKEN": token}))
        rollout(place, guarded, 1)
        with place.daemon():
            until(lambda place=place: place.events("trouble") or place.holds(2))  # type: ignore[misc]
            place.call("status")
        given = url if in_url else f"ws://host?authToken={token}"
        table = place.folder / "filter.toml"
        place.config.unlink()  # it is the user's own file, as is the filter's
        commands = [
            ["run", "--once", "--shards", "shards", "--database", url, "--dataset", "good.jsonl"],
            ["doctor", "--shards", "shards", "--database", url, "--dataset", "good.jsonl"],
            ["doctor", "--json", "--shards", "shards", "--database", given, "--dataset", "good.jsonl"],
            ["run", "--shards", "shards", "--database", f"https://[x?authToken={token}"],
            ["run", "--shards", "shards", "--database", f"https://user:{token}@host"],
            ["run", "--shards", "shards", "--database", url, "--where", "1; 2"],
            ["status", "--dataset", "good.jsonl"],
            ["status", "--json", "--dataset", "good.jsonl"],
            ["explain", "run-1", "--dataset", "good.jsonl"],
            ["verify", "good.jsonl"],
            ["tail", "good.jsonl", "--no-follow"],
        ]
        outputs += [place.bare(*command) for command in commands]
        for db in (url, f"https://user:{token}@host", f"ws://h/?authToken={token}"):
            table.write_text(f'[filter]\ndb = "{db}"\noutput = "o.jsonl"\n')
            outputs.append(place.bare("filter", "--config", "filter.toml"))
        table.unlink()
    assert any(done.returncode == 0 for done in outputs)
    for done in outputs:
        for secret in (guard.token, forged):
            assert secret not in done.stdout + done.stderr, done.args
            assert secret[-40:] not in done.stdout + done.stderr, done.args
    for folder, _, names in os.walk(tmp_path / "places"):
        for name in names:
            data = (tmp_path / "places" / folder / name).read_bytes()
            assert guard.token.encode() not in data, name
            assert forged.encode() not in data, name


def test_the_token_stands_in_no_command_line(tmp_path: Path, guarded: Sqld, guard: Guard) -> None:
    """Everyone on the machine can read those."""
    place = RemotePlace(tmp_path / "place", guarded.url, TURSO_AUTH_TOKEN=guard.token)
    rollout(place, guarded, 1)
    with place.daemon() as daemon:
        until(lambda: place.holds(2))
        workers = [line for line in _command_lines() if "libsql_worker" in line]
        assert workers
        assert not [line for line in _command_lines() if guard.token in line]
        daemon.kill()
        daemon.wait()
        until(lambda: not [line for line in _command_lines() if line in workers])


def _command_lines() -> list[str]:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


# -- doctor and filter ---------------------------------------------------------------------------------------


def test_doctor_looks_at_a_server(tmp_path: Path, sqld: Sqld) -> None:
    """Whether it answers, whether the table is there, how many outcomes qualify, and whether sessions fit."""
    place = RemotePlace(tmp_path / "place", sqld.url)
    for number in range(3):
        rollout(place, sqld, number, reward=number)
    done = place.call("doctor")
    assert done.returncode == 0, done.stdout
    assert f"{sqld.url} has 3 outcomes, 2 meet" in done.stdout
    assert "3 of 3 sessions" in done.stdout
    sqld.execute("ALTER TABLE outcome_rewards RENAME TO gone")
    assert "no table outcome_rewards yet" in place.call("doctor").stdout
    sqld.kill()
    assert "Connection refused" in place.call("doctor").stdout


_SESSION = """
INSERT INTO session_traces (session_id, created_at, num_timesteps, num_events, num_messages)
VALUES (?, '2026-01-01', 1, 1, 1)
"""
_OUTCOME = """
INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, created_at)
VALUES (?, 3, 1, 8, '2026-01-02')
"""
_MESSAGE = "INSERT INTO messages (session_id, timestep_id, message_type, content) VALUES (?, ?, ?, ?)"


def execute(path: Path, *statements: tuple[str, list[Any]]) -> None:
    """Do to a file what a producer would do to a server."""
    with closing(sqlite3.connect(path)) as db, db:
        for sql, values in statements:
            db.execute(sql, values)


def test_filter_reads_messages_of_a_server_as_those_of_a_file(tmp_path: Path, sqld: Sqld) -> None:
    """Large pages and images included: the same lines, but for the name of the database."""
    local = make_conversations(tmp_path / "traces.db")
    sqld.execute(*filter(str.strip, CONVERSATIONS.split(";")))
    text = "x" * 200_000
    for session in ("run-a", "run-b"):
        rows = [
            (kind, content, turn + 1)
            for turn in range(20)
            for kind, content in (
                ("system", payload("system", "play")),
                ("user", payload("user", f"{session} {turn} {text}")),
                ("assistant", tool_reply("do")),
            )
        ]
        for target in (partial(execute, local), sqld.execute):
            target((_SESSION, [session]), (_OUTCOME, [session]))
            for kind, content, step in rows:
                target((_MESSAGE, [session, step, kind, content]))
    found: list[list[dict[str, Any]]] = []
    for db in (local, sqld.url):
        (tmp_path / "filter.toml").write_text(f'[filter]\ndb = "{db}"\noutput = "o.jsonl"\nmin_official_score = 1\n')
        place = RemotePlace(tmp_path / f"place-{len(found)}", sqld.url)
        done = place.bare("filter", "--config", str(tmp_path / "filter.toml"))
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (place.folder / "o.jsonl").read_text().splitlines()]
        assert len(lines) == 40
        assert all(line["metadata"].pop("shard") for line in lines)
        found.append(lines)
    assert found[0] == found[1]
