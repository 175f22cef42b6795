"""Metrics and health probes of the real daemon, over real HTTP."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from streamer.base.env import Env
from streamer.base.events import Event, FailureBegan, FailureEnded, Started
from streamer.base.failures import SourceFailures
from streamer.core.records.model import State
from streamer.daemon.build import open_pipeline
from streamer.daemon.observers.health import STUCK_AFTER, Health
from streamer.web.metrics import Metrics
from streamer.web.monitoring import routes
from tests.helpers.monitoring import promtool
from tests.helpers.place import Place, until
from tests.helpers.producer import FakeClock, add_outcome, dialogue, make_traces, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEB = '[web]\nlisten = "127.0.0.1:0"\n'
HOSTILE = 'a"} 1\nstreamer_evil{x="\\'
STREAMS = 30


class Watched(Place):
    """A place whose daemon is asked over HTTP."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.configure(WEB)
        self._headers: dict[str, str] = {}

    @contextmanager
    def served(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon, and return when it can be asked."""
        before = len(self.events("page_served"))
        with self.daemon() as process:
            until(lambda: len(self.events("page_served")) > before)
            yield process

    @property
    def url(self) -> str:
        """Where the daemon that was started last is asked."""
        url: str = self.events("page_served")[-1]["url"]
        return url.rstrip("/")

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask."""
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=20)

    def samples(self) -> dict[str, float]:
        """Return the exposed samples by name and labels."""
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        return samples(answer.text)

    def rollouts(self) -> None:
        """Write lines for each state but one: 3 accepted, and 1 of each other."""
        make_traces(self.traces)
        for session, reward in (("good", 2), ("twice", 1), ("bad", 0)):
            add_outcome(self.traces, session, reward, 60)
        self.shard("good.jsonl", *(dialogue("good", turn, f"state {turn}") for turn in range(3)))
        self.shard("twice.jsonl", dialogue("twice", 0, "state 0"))
        self.shard("bad.jsonl", dialogue("bad", 0, "other"))
        self.shard("late.jsonl", dialogue("late", 0, "no outcome yet"))
        with (self.shards / "torn.jsonl").open("wb") as file:
            file.write(b'{"not": json}\n{"unfinished')

    def agrees(self) -> bool:
        """Say whether everything that `streamer status` counts is exposed with the same value."""
        seen, found = self.status(), self.samples()
        expected = {
            "streamer_dataset_lines": seen["dataset_lines"],
            "streamer_dataset_bytes": seen["dataset_bytes"],
            "streamer_waiting_rollouts": seen["waiting_rollouts"],
            "streamer_overwritten_lines_total": seen["overwritten"],
            "streamer_appended_rollouts": seen["appended_rollouts"],
            "streamer_withdrawn_rollouts": seen["withdrawn_rollouts"],
            "streamer_shards": seen["shards"],
            "streamer_sessions": seen["sessions"],
            "streamer_outcomes": seen["outcomes"],
            "streamer_lag_bytes": seen["lag"]["unread_bytes"],
            "streamer_lag_shards": seen["lag"]["unread_shards"],
        }
        for state in State:
            split = seen["reasons"].get(state, {})
            rest = seen["accounting"][state] - sum(split.values())
            for reason, lines in {"": rest, **split}.items():
                expected[f'streamer_lines{{reason="{reason}",state="{state}"}}'] = lines
        assert sum(value for name, value in expected.items() if "streamer_lines" in name) == seen["accounting"]["read"]
        lines = {name for name in found if name.startswith("streamer_lines")}
        return lines <= set(expected) and {name: found[name] for name in expected} == expected


def samples(text: str) -> dict[str, float]:
    """Return samples by name and labels as they are written."""
    families = text_string_to_metric_families(text)
    return {_written(one.name, one.labels): one.value for family in families for one in family.samples}


def _written(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


@pytest.mark.slow
def test_the_accounts_are_those_of_status(tmp_path: Path) -> None:
    """Each state and reason, the dataset, rollouts and lag: while the daemon runs, and while more comes."""
    place = Watched(tmp_path)
    place.rollouts()
    with place.served():
        until(lambda: place.status()["accounting"]["read"] == 7)
        until(place.agrees)
        found = place.samples()
        assert found['streamer_lines{reason="",state="appended"}'] == 3
        assert found['streamer_lines{reason="where",state="below_bar"}'] == 1
        assert found['streamer_lines{reason="not_json",state="dead_lettered"}'] == 1
        assert found["streamer_lag_bytes"] == len('{"unfinished')
        add_outcome(place.traces, "late", 5, 60)
        until(lambda: place.status()["accounting"]["waiting"] == 0)
        until(place.agrees)
        assert place.samples()["streamer_waiting_since_timestamp_seconds"] == 0


@pytest.mark.slow
def test_the_accounts_outlive_a_kill(tmp_path: Path) -> None:
    """Line counts continue; counters of the process restart at 0."""
    place = Watched(tmp_path)
    place.rollouts()
    with place.served() as process:
        until(lambda: place.status()["accounting"]["read"] == 7)
        process.send_signal(signal.SIGKILL)
        process.wait()
    place.shard("more.jsonl", dialogue("good", 3, "state 3"), dialogue("good", 0, "state 0"))
    with place.served():
        until(lambda: place.status()["accounting"]["read"] == 9)
        until(place.agrees)
        found = place.samples()
        assert found['streamer_lines{reason="",state="appended"}'] == 4
        assert found['streamer_lines{reason="",state="duplicate"}'] == 2
        until(lambda: place.samples()["streamer_batch_lines_sum"] == 2)


@pytest.mark.slow
def test_lines_that_wait_too_long_are_counted_as_never_scored(tmp_path: Path) -> None:
    """A state that no batch reports."""
    place = Watched(tmp_path)
    place.configure(f'{WEB}[join]\nnever_scored_after = "10ms"\n')
    make_traces(place.traces)
    place.shard("late.jsonl", dialogue("late"))
    with place.served():
        until(lambda: place.status()["accounting"]["never_scored"] == 1)
        until(place.agrees)
        until(lambda: place.samples()['streamer_judged_lines_total{state="never_scored"}'] == 1)


@pytest.mark.slow
def test_batches_are_timed(tmp_path: Path) -> None:
    """Each batch is one commit, each one with records one sync; each outcome was late by some time."""
    place = Watched(tmp_path)
    place.rollouts()
    with place.served():
        until(lambda: place.samples()["streamer_batch_lines_sum"] == 7)
        found = place.samples()
        assert found["streamer_ledger_commit_seconds_count"] == found["streamer_batch_lines_count"]
        assert found["streamer_ledger_commit_seconds_sum"] > 0
        assert found["streamer_dataset_sync_seconds_count"] == found["streamer_batch_appended_bytes_count"] >= 1
        assert found["streamer_dataset_sync_seconds_sum"] > 0
        assert found["streamer_batch_appended_bytes_sum"] == found["streamer_dataset_bytes"]
        assert found["streamer_outcome_latency_seconds_count"] >= 1
        assert found['streamer_outcomes_seen_total{qualifies="true"}'] == 2
        assert found['streamer_outcomes_seen_total{qualifies="false"}'] == 1
        judged = {state: found[f'streamer_judged_lines_total{{state="{state}"}}'] for state in State}
        assert judged == {
            "appended": 3, "duplicate": 1, "below_bar": 1, "waiting": 1, "never_scored": 0, "dead_lettered": 1,
        }  # fmt: skip


@pytest.mark.slow
def test_nothing_that_models_wrote_becomes_a_name_or_a_label(tmp_path: Path) -> None:
    """Not sessions, models, roles, texts or names of shards: the number of series does not grow with them."""
    place = Watched(tmp_path)
    make_traces(place.traces)
    for number in range(20):
        session = f"{HOSTILE}{number}"
        add_outcome(place.traces, session, number % 2, 60)
        bad = dialogue(session, 1, HOSTILE, dialogue=[{"role": HOSTILE, "content": HOSTILE}])
        place.shard(f"evil-{number}.jsonl", dialogue(session, 0, f"{number}", model=HOSTILE, provider=HOSTILE), bad)
    with place.served():
        until(lambda: place.status()["accounting"]["read"] == 40)
        until(place.agrees)
        text = place.get("/metrics").text
    assert "evil" not in text
    assert text.count("\nstreamer_lines{") <= len(State) + 2


@pytest.mark.slow
def test_what_is_missing_is_told_and_is_no_reason_for_a_restart(tmp_path: Path) -> None:
    """A daemon without its folder and its database is alive, and not ready, until both are there."""
    place = Watched(tmp_path)
    place.shards.rmdir()
    with place.served():
        until(lambda: place.get("/readyz").text.count("\n") == 3)
        answer = place.get("/readyz")
        assert answer.status_code == 503
        assert "cannot list the shard folder" in answer.text
        assert "cannot read outcomes" in answer.text
        assert str(tmp_path) not in answer.text
        assert place.get("/healthz").status_code == 200
        until(lambda: place.samples()['streamer_failures_total{op="read outcomes"}'] >= 3)
        found = place.samples()
        assert found['streamer_trouble{op="list the shard folder"}'] == 1
        assert found['streamer_trouble{op="read outcomes"}'] == 1
        assert found["streamer_ready"] == 0
        place.shards.mkdir()
        make_traces(place.traces)
        until(lambda: place.get("/readyz").status_code == 200)
        found = place.samples()
        assert found["streamer_ready"] == 1
        assert not [name for name in found if name.startswith("streamer_trouble")]


@pytest.mark.slow
def test_metrics_need_the_token_and_health_does_not(tmp_path: Path) -> None:
    """Prometheus can read it from a file; a health probe cannot."""
    place = Watched(tmp_path)
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef\n")
    place.configure(f'{WEB}token_file = "token"\n')
    make_traces(place.traces)
    with place.served():
        assert place.get("/metrics").status_code == 401
        assert place.get("/metrics", authorization="Bearer 0123456789abcdee").status_code == 401
        assert place.get("/metrics", authorization="Bearer 0123456789abcdef").status_code == 200
        assert place.get("/metrics", host="evil.example", authorization="Bearer 0123456789abcdef").status_code == 421
        assert place.get("/healthz").status_code == 200
        until(lambda: place.get("/readyz").status_code == 200)


@pytest.mark.slow
def test_metrics_and_health_are_served_beside_many_streams(tmp_path: Path) -> None:
    """Pages that stay open take nothing from Prometheus."""
    place = Watched(tmp_path)
    make_traces(place.traces)
    with place.served(), ExitStack() as stack:
        for _ in range(STREAMS):
            answer = stack.enter_context(httpx.stream("GET", f"{place.url}/api/events", timeout=20))
            assert answer.status_code == 200
        assert place.samples()["streamer_ledger_readable"] == 1
        assert place.get("/healthz").status_code == 200


@pytest.mark.slow
def test_metrics_come_in_both_formats_of_prometheus(tmp_path: Path) -> None:
    """As text, and as OpenMetrics to whoever asks for that; never kept by a cache."""
    place = Watched(tmp_path)
    with place.served():
        text = place.get("/metrics")
        open_metrics = place.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")
    assert text.headers["cache-control"] == open_metrics.headers["cache-control"] == "no-store"


def test_promtool_finds_nothing_to_improve(tmp_path: Path) -> None:
    """Names, units and types are as Prometheus wants them."""
    program = promtool()
    place = Watched(tmp_path)
    place.rollouts()
    with place.served():
        until(lambda: place.status()["accounting"]["read"] == 7)
        text = place.get("/metrics").text
    done = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_ledger_that_cannot_be_read_costs_the_accounts_and_nothing_else(tmp_path: Path) -> None:
    """The rest is exposed, and says so."""
    ledger = tmp_path / "ledger"
    ledger.write_bytes(b"no database" * 1000)
    metrics = Metrics(tmp_path / "dataset", ledger, Health(FakeClock().monotonic))
    found = samples(ask(metrics, Health(FakeClock().monotonic), "/metrics").text)
    assert found["streamer_ledger_readable"] == 0
    assert found["streamer_ledger_bytes"] == ledger.stat().st_size
    assert not [name for name in found if name.startswith("streamer_lines")]


def test_a_loop_that_does_not_come_round_is_told(tmp_path: Path) -> None:
    """Neither healthy nor ready, with words; until it comes round again."""
    clock = FakeClock()
    health = Health(clock.monotonic)
    metrics = Metrics(tmp_path / "dataset", tmp_path / "ledger", health)
    health(Started("d", 0, "s", "t", "w"))
    assert "being recovered" in ask(metrics, health, "/readyz").text
    health.heartbeat()
    assert ask(metrics, health, "/readyz").status_code == 200
    clock.advance(STUCK_AFTER + 1)
    for path in ("/healthz", "/readyz"):
        answer = ask(metrics, health, path)
        assert answer.status_code == 503
        assert "has not come round for 61 s" in answer.text
    assert samples(ask(metrics, health, "/metrics").text)["streamer_loop_silence_seconds"] == STUCK_AFTER + 1
    health.heartbeat()
    assert ask(metrics, health, "/healthz").status_code == 200


def ask(metrics: Metrics, health: Health, path: str) -> httpx.Response:
    """Ask the routes alone."""

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=routes(metrics.registry, health)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    return anyio.run(main)


def test_a_trouble_that_outlives_its_pipeline_is_over_in_another_one(tmp_path: Path) -> None:
    """A disk that fills up while the database cannot be read does not leave that trouble standing for ever."""
    config, told = settings(tmp_path), list[Event]()
    (tmp_path / "shards").mkdir()
    failures = SourceFailures(told.append)

    async def live() -> None:
        async with open_pipeline(config, Env(clock=FakeClock(), emit=told.append), failures=failures) as pipeline:
            await pipeline.drain()

    anyio.run(live)
    anyio.run(live)
    make_traces(tmp_path / "traces.db")
    anyio.run(live)
    said = [(type(event), event.op) for event in told if isinstance(event, FailureBegan | FailureEnded)]
    assert said == [(FailureBegan, "read outcomes"), (FailureEnded, "read outcomes")]
