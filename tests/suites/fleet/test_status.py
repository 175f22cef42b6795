"""`streamer fleet status`: what a person sees of a fleet."""

from __future__ import annotations

import json
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.suites.fleet.company import Company
from tests.suites.fleet.fleets import at, init, run, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from nats.js import JetStreamContext

    from tests.suites.fleet.servers import Server


@pytest.fixture
def hosts(server: Server, tmp_path: Path) -> Company:
    """Return a small company whose fleet is set up."""
    init(write_config(tmp_path / "admin.toml", [server.url], [server.monitor], "buckets = 4"), "--replicas", 1)
    return Company(tmp_path / "hosts", [server.url], 2, ("0-1", "2-2"))


def said(folder: Path) -> dict[str, Any]:
    """Return what it says, as JSON."""
    done = run("fleet", "status", "--json", "--seconds", 0.1, "--config", folder / "admin.toml")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_says_what_waits_where_and_who_is_there(hosts: Company, tmp_path: Path) -> None:
    """Records in a bucket that nobody writes wait there; both collectors have beaten; each bucket says whose it is."""
    with hosts:
        hosts.play(12)
        hosts.until(lambda: hosts.written() > 0 and len(said(tmp_path)["hosts"]) == len(hosts.collectors))
        hosts.until(partial(_is_taken, hosts, tmp_path))
        seen = said(tmp_path)
        owners = [(one["state"], one["writer"][:3]) for one in seen["buckets"]]
        assert owners == [("owned", "w-0"), ("owned", "w-0"), ("owned", "w-1"), ("free", "")]
        assert seen["messages"] == seen["buckets"][3]["waiting"] > 0
        assert [one["origin"].partition(".")[0] for one in seen["hosts"]] == ["eval-0", "eval-1"]
        text = run("fleet", "status", "--config", tmp_path / "admin.toml").stdout
        assert f"stream    streamer-crafter: {seen['messages']} records on their way" in text
        assert "buckets   3: nobody has had them yet" in text
        assert "host      eval-0." in text
        hosts.writers[1].end(signal.SIGTERM)
        hosts.writers[1].buckets = "2-3"
        hosts.writers[1].configure()
        hosts.writers[1].start()
        hosts.settle()
        hosts.check()
        assert said(tmp_path)["messages"] == 0


def _is_taken(hosts: Company, folder: Path) -> bool:
    """Say whether all that is left is in the bucket that nobody writes, and all that was played was sent."""
    seen = said(folder)
    left = [one["waiting"] + one["given_out"] for one in seen["buckets"]]
    are_sent = all(one.sent >= one.lines() for one in hosts.collectors)
    return are_sent and left[:3] == [0, 0, 0] and left[3] >= hosts.expected - hosts.written() > 0


@pytest.mark.usefixtures("hosts")
def test_what_a_collector_says_of_itself_is_not_believed(server: Server, tmp_path: Path) -> None:
    """Names that are none are left out, numbers that are none count as nothing, and no terminal is steered."""

    async def beat(js: JetStreamContext) -> None:
        for name, data in (
            ("eval-9.x", b'{"waits":-5,"unsent_bytes":"\x1b[2J"}'),
            ("\x1b[2J.x", b"{}"),
            ("eval-8.x", b"\xff" * 100_000),
        ):
            await js.publish(f"streamer.alive.crafter.{name}", data)

    at([server.url], beat, skip_subject_validation=True)
    seen = said(tmp_path)
    assert [(one["origin"], one["waits"], one["unsent_bytes"]) for one in seen["hosts"]] == [
        ("eval-8.x", 0, 0),
        ("eval-9.x", 0, 0),
    ]
    text = run("fleet", "status", "--config", tmp_path / "admin.toml").stdout
    assert "\x1b" not in text


def test_nothing_there_is_said_in_words(server: Server, tmp_path: Path) -> None:
    """A fleet that was never set up, and servers that are not there."""
    config = write_config(tmp_path / "admin.toml", [server.url])
    done = run("fleet", "status", "--config", config)
    assert done.returncode == 3
    assert "streamer fleet init" in done.stderr
    server.kill()
    done = run("fleet", "status", "--config", config)
    assert done.returncode == 3
    assert "cannot reach the fleet" in done.stderr
    assert "Traceback" not in done.stderr
