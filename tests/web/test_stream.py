"""The page lives with the daemon: it grows, catches up, stops and comes back."""

from __future__ import annotations

import signal
import socket
import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.helpers.place import ended, until
from tests.helpers.producer import add_outcome, dialogue, make_traces
from tests.helpers.web import Site, events, flow, got, raw, refused

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a place with one good rollout in the trace database."""
    site = Site(tmp_path)
    make_traces(site.traces)
    add_outcome(site.traces, "good", 3, 10)
    return site


@pytest.mark.slow
def test_the_page_grows_while_a_producer_writes(site: Site) -> None:
    """Each message has the whole state, and an id of its own."""
    with site.served() as client, events(client) as stream:
        name, first, state = stream.next()
        assert (name, flow(state)["appended"]) == ("state", 0)
        assert state["revision"] == first
        for turn in range(3):
            site.shard("a.jsonl", dialogue("good", turn, f"turn {turn}"))
            state = stream.until_read(turn + 1)
            assert (flow(state)["appended"], state["dataset"]["records"]) == (turn + 1, turn + 1)
            assert state["revision"] != first


@pytest.mark.slow
def test_a_lost_connection_misses_nothing(site: Site) -> None:
    """The state is whole in the next message, and history has the points between."""
    with site.served() as client:
        with events(client) as stream:
            site.shard("a.jsonl", dialogue("good", 0, "a"))
            seen = stream.until_read(1)
        site.shard("a.jsonl", dialogue("good", 1, "b"), dialogue("good", 2, "c"))
        with events(client) as stream:
            state = stream.until_read(3)
            assert flow(state)["appended"] == 3
        missed = got(client, "/api/history", since=seen["at"])
        assert missed["appended"][-1] == 3
        assert min(missed["at"]) > seen["at"]


@pytest.mark.slow
def test_the_stream_ends_when_the_daemon_does(site: Site) -> None:
    """It says so, and holds nobody up."""
    with site.running() as (daemon, client), events(client) as stream:
        stream.next()
        daemon.send_signal(signal.SIGTERM)
        while (event := stream.next())[0] == "state":
            pass
        assert event == ("stopping", "", {})
        with pytest.raises(EOFError):
            stream.next()
        assert ended(daemon) == 0
    assert site.events("stopped")


@pytest.mark.slow
def test_the_stream_is_open_to_so_many_and_no_more(site: Site) -> None:
    """The others are told in words; whoever leaves makes room."""
    with site.served() as client:
        with ExitStack() as streams:
            listening = [streams.enter_context(events(client)) for _ in range(32)]
            assert {stream.next()[0] for stream in listening} == {"state"}
            assert "close one" in refused(client, "/api/events", 503)
            got(client, "/api/state")

        def is_open() -> bool:
            with client.stream("GET", "/api/events") as answer:
                return answer.status_code == 200

        until(is_open)


@pytest.mark.slow
def test_a_client_that_does_not_listen_holds_up_nothing(site: Site) -> None:
    """Neither the daemon, nor those who do listen, nor the end."""
    with site.running() as (daemon, client), events(client) as stream:
        deaf = [httpx.Client(base_url=client.base_url).stream("GET", "/api/events") for _ in range(4)]
        with ExitStack() as open_ones:
            for one in deaf:
                open_ones.enter_context(one)
            for turn in range(3):
                site.shard("a.jsonl", dialogue("good", turn, f"turn {turn}"))
                assert flow(stream.until_read(turn + 1))["appended"] == turn + 1
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0


@pytest.mark.slow
def test_history_outlives_the_daemon(site: Site) -> None:
    """A clean stop, a kill, and what the first daemon saw is still told by the third."""
    with site.running() as (daemon, client):
        site.shard("a.jsonl", dialogue("good", 0, "a"))
        until(lambda: got(client, "/api/history")["records"][-1:] == [1])  # committed: a line is visible before that
        before = got(client, "/api/history")
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    with site.running() as (daemon, client), events(client) as stream:
        site.shard("a.jsonl", dialogue("good", 1, "b"))
        assert flow(stream.until_read(2))["appended"] == 2
        daemon.kill()
    site.shard("a.jsonl", dialogue("good", 2, "c"))
    with site.served() as client:
        until(lambda: got(client, "/api/history")["records"][-1] == 3)
        after = got(client, "/api/history")
        assert after["at"][0] == before["at"][0]
        assert after["records"] == sorted(after["records"])
        assert {0, 3} <= set(after["records"])  # of what held for less than two seconds, the last is kept
    assert len(site.records()) == 3


@pytest.mark.slow
def test_kills_with_the_page_open_do_no_harm(site: Site) -> None:
    """The dataset is the one that it would be without."""
    for turn in range(4):
        with site.running() as (daemon, client), events(client) as stream:
            stream.next()
            site.shard("a.jsonl", dialogue("good", turn, f"turn {turn}"))
            stream.until_read(turn + 1)
            daemon.kill()
            daemon.wait()
    with site.served() as client:
        until(lambda: got(client, "/api/state")["flow"]["read"] == 4)
    assert site.texts() == {f"turn {turn}" for turn in range(4)}
    assert len(site.records()) == 4
    assert site.status()["accounting"]["appended"] == 4


@pytest.mark.slow
def test_an_idle_daemon_writes_nothing_however_long_one_looks(site: Site) -> None:
    """Not into its ledger, through many looks at everything."""
    with site.served() as client, events(client) as stream:
        site.shard("a.jsonl", dialogue("good", 0, "a"))
        stream.until_read(1)
        with closing(sqlite3.connect(f"file:{site.dataset}.ledger?mode=ro", uri=True)) as db:

            def version() -> int:
                return int(db.execute("PRAGMA data_version").fetchone()[0])

            def is_left_alone() -> bool:
                before = version()
                for path in ("state", "history", "distributions", "records", "rollouts"):
                    got(client, f"/api/{path}")
                return version() == before

            until(lambda: all(is_left_alone() for _ in range(10)))  # a daemon looks at a new shard twice


@pytest.mark.slow
def test_troubles_are_shown_while_they_last(tmp_path: Path) -> None:
    """The page is there before the trace database is."""
    site = Site(tmp_path)
    with site.served() as client:
        until(lambda: got(client, "/api/state")["trace_database"]["state"] == "trouble")
        (trouble,) = got(client, "/api/state")["troubles"]
        assert trouble["op"] == "read outcomes"
        assert trouble["hint"]
        make_traces(site.traces)
        until(lambda: got(client, "/api/state")["troubles"] == [])
        assert got(client, "/api/state")["trace_database"]["state"] == "ok"


@pytest.mark.slow
def test_a_dataset_that_is_cut_back_is_shown_as_it_is(site: Site) -> None:
    """Records that are gone are not found; the others are."""
    site.shard("a.jsonl", *(dialogue("good", turn, f"turn {turn}") for turn in range(3)))
    with site.served() as client:
        until(lambda: got(client, "/api/state")["dataset"]["records"] == 3)
        offsets = [record["offset"] for record in got(client, "/api/records")["records"]]
        data = site.dataset.read_bytes()
        site.dataset.write_bytes(data[: offsets[0] + 20])  # in the middle of the last record
        refused(client, f"/api/records/{offsets[0]}", 404)
        assert [record["offset"] for record in got(client, "/api/records")["records"]] == offsets[1:]
        site.dataset.write_bytes(b"")
        assert got(client, "/api/records") == {"records": [], "next": None}
        refused(client, "/api/records/0", 404)
        site.dataset.unlink()
        assert got(client, "/api/records") == {"records": [], "next": None}
        refused(client, "/api/records/0", 404)
        refused(client, "/api/records/0/images/0", 404)


@pytest.mark.slow
def test_a_reload_shows_the_new_condition_and_keeps_the_page(site: Site) -> None:
    """`[web]` is among what needs a restart."""
    with site.running() as (daemon, client):
        site.configure("[qualify]\nwhere = 'total_reward >= 2 and achievements_count >= 1'", web='listen = "[::1]:0"')
        daemon.send_signal(signal.SIGHUP)
        until(lambda: site.events("reloaded"))
        assert site.events("reloaded")[0]["refused"] == "web.listen"
        state = got(client, "/api/state")
        assert state["condition"]["where"] == "total_reward >= 2 and achievements_count >= 1"
        assert [(bar["column"], bar["op"], bar["value"]) for bar in state["condition"]["bars"]] == [
            ("total_reward", ">=", 2.0), ("achievements_count", ">=", 1.0),
        ]  # fmt: skip


@pytest.mark.slow
def test_a_port_that_is_in_use_stops_no_record(site: Site) -> None:
    """The daemon says how to find who has it, and collects."""
    with site.served() as first:
        folder = site.folder / "other"
        folder.mkdir()
        other = Site(folder)
        make_traces(other.traces)
        add_outcome(other.traces, "good", 3, 10)
        other.configure(web=f'listen = "127.0.0.1:{first.base_url.port}"')
        with other.daemon():
            until(lambda: other.events("trouble"))
            (trouble,) = other.events("trouble")
            assert trouble["op"] == "serve the page"
            assert f"sport = :{first.base_url.port}" in trouble["hint"]
            other.shard("a.jsonl", dialogue("good", 0, "a"))
            until(lambda: other.holds(1))
            assert not other.events("page_served")


@pytest.mark.slow
def test_a_page_comes_up_when_its_port_is_free_again(tmp_path: Path) -> None:
    """After the trouble is over, which is told."""
    site = Site(tmp_path)
    make_traces(site.traces)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.configure(web=f'listen = "127.0.0.1:{port}"')
        with site.daemon() as daemon:
            until(lambda: site.events("trouble"))
            taken.close()
            until(lambda: site.events("page_served"))
            assert site.events("trouble_over")[-1]["op"] == "serve the page"
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0


@pytest.mark.slow
def test_a_second_daemon_of_the_same_dataset_serves_nothing(site: Site) -> None:
    """It is refused before its page could be seen."""
    with site.served() as client:
        done = site.call("run")
        assert done.returncode == 4
        assert "page_served" not in done.stderr
        got(client, "/api/state")


@pytest.mark.slow
def test_nonsense_on_the_line_ends_that_connection_alone(site: Site) -> None:
    """And leaves no line in the log that is not an event."""
    with site.served() as client:
        assert raw(client, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert raw(client, b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 19)).startswith(b"HTTP/1.1 400")
        got(client, "/api/state")
    assert all(line.startswith("{") for line in site.log.read_text().splitlines())


def test_a_single_pass_serves_nothing(site: Site) -> None:
    """It is over before anyone could look."""
    site.shard("a.jsonl", dialogue("good", 0, "a"))
    done = site.once()
    assert done.returncode == 0, done.stderr
    assert "page_served" not in done.stderr


@pytest.mark.slow
def test_head_of_the_stream_ends(site: Site) -> None:
    """It has headers, and no events to come."""
    with site.served() as client:
        answer = client.head("/api/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
