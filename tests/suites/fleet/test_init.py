"""`streamer fleet init`, through the executable: what it makes, what it finds, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nats.js.api import AckPolicy, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from tests.suites.fleet.fleets import OWNERS, STREAM, at, init, run, write_config
from tests.suites.fleet.servers import Server

if TYPE_CHECKING:
    from pathlib import Path

    from nats.js import JetStreamContext

    from tests.suites.fleet.servers import Cluster


def test_a_cluster_gets_all_that_a_fleet_needs_and_keeps_it(cluster: Cluster, tmp_path: Path) -> None:
    """Three replicas on disks, records that nobody drops, a consumer for each bucket; twice is as good as once."""
    config = write_config(tmp_path / "c.toml", cluster.urls, cluster.monitors, "buckets = 8")
    made = init(config)
    assert [line.split()[0] for line in made] == ["made"] * 6 + ["fine"] * 4
    assert sum("syncs what it acknowledges" in line for line in made) == 3
    again = init(config)
    assert [line.split()[0] for line in again] == ["fine"] * 10

    async def look(js: JetStreamContext) -> tuple[Any, list[Any], list[Any]]:
        infos = [
            await js.stream_info(name)
            for name in (STREAM, f"KV_{OWNERS}", f"OBJ_{STREAM}-objects", f"OBJ_{STREAM}-keys")
        ]
        consumers = [await js.consumer_info(STREAM, f"bucket-{bucket}") for bucket in range(8)]
        owners = await js.key_value(OWNERS)
        return infos, consumers, [(await owners.get(str(bucket))).value for bucket in range(8)]

    infos, consumers, entries = at(cluster.urls, look)
    for info in infos:
        assert info.config.num_replicas == 3
        assert info.config.storage == StorageType.FILE
        assert info.config.discard == DiscardPolicy.NEW
    records = infos[0].config
    assert records.retention == RetentionPolicy.WORK_QUEUE
    assert records.subjects == ["streamer.crafter.*"]
    ours = {key: value for key, value in records.metadata.items() if key.startswith("streamer-")}
    assert ours == {"streamer-format": "1", "streamer-buckets": "8", "streamer-dedup": "conversation"}
    assert [one.config.filter_subject for one in consumers] == [f"streamer.crafter.{bucket}" for bucket in range(8)]
    assert {one.config.ack_policy for one in consumers} == {AckPolicy.EXPLICIT}
    assert entries == [b'{"state":"free","writer":"","keys":""}'] * 8


def test_what_differs_is_named_and_changed_only_when_that_is_asked_for(server: Server, tmp_path: Path) -> None:
    """Sizes can change in use; what the buckets are cannot."""
    config = write_config(tmp_path / "c.toml", [server.url], [server.monitor], "buckets = 4")
    init(config, "--replicas", 1)
    told = init(config, "--stream-bytes", "1MiB", code=1)
    assert "         max_bytes is 8589934592, and here 1048576" in told
    assert "differs  stream streamer-crafter" in told
    told = init(config, "--stream-bytes", "1MiB", "--fix")
    assert "fixed    stream streamer-crafter" in told
    init(config, "--stream-bytes", "1MiB")
    other = write_config(tmp_path / "d.toml", [server.url], [server.monitor], "buckets = 5", '[dedup]\nby = "prompt"')
    told = init(other, "--fix", code=1)
    assert "         streamer-buckets is 4, and here 5: what has been sent stays where it is" in told
    assert any("streamer-dedup is conversation, and here prompt" in line for line in told)


def test_a_stream_of_somebody_else_is_not_touched(server: Server, tmp_path: Path) -> None:
    """One of the same name that drops what is old: all that is wrong with it is said."""

    async def make(js: JetStreamContext) -> None:
        await js.add_stream(StreamConfig(name=STREAM, subjects=["mine.*"], storage=StorageType.MEMORY))

    async def config_of(js: JetStreamContext) -> StreamConfig:
        return (await js.stream_info(STREAM)).config

    at([server.url], make)
    before = at([server.url], config_of)
    config = write_config(tmp_path / "c.toml", [server.url], [server.monitor], "buckets = 2")
    done = run("fleet", "init", "--config", config, "--replicas", 1, "--fix")
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    assert at([server.url], config_of) == before
    assert "retention is limits, and has to be workqueue" in done.stdout + done.stderr


def test_a_server_that_acknowledges_before_it_syncs_is_named(tmp_path: Path) -> None:
    """With the setting that changes it; without its monitoring nothing is claimed."""
    with Server(tmp_path / "nats", sync="2m") as server:
        config = write_config(tmp_path / "c.toml", [server.url], [server.monitor], "buckets = 2")
        told = init(config, "--replicas", 1, code=1)
        assert told[-1] == (
            "differs  one: acknowledges before it syncs, every 120 s: set `sync_interval: always` in the block"
            " `jetstream` of its configuration"
        )
        told = init(write_config(tmp_path / "d.toml", [server.url], (), "buckets = 2"))
        assert told[-1] == "unknown  whether the servers sync what they acknowledge: set fleet.monitor to see"
        silent = write_config(tmp_path / "e.toml", [server.url], ["http://127.0.0.1:1"], "buckets = 2")
        assert "cannot be asked" in init(silent, code=1)[-1]


def test_servers_that_refuse_say_why(server: Server, tmp_path: Path) -> None:
    """Three replicas on one server: its words, and what to do; and nobody there at all."""
    config = write_config(tmp_path / "c.toml", [server.url], (), "buckets = 2")
    done = run("fleet", "init", "--config", config)
    assert done.returncode == 3
    assert "replicas > 1 not supported in non-clustered mode" in done.stderr
    assert "--replicas" in done.stderr
    done = run("fleet", "init", "--config", write_config(tmp_path / "d.toml", ["nats://127.0.0.1:1"]))
    assert done.returncode == 3
    assert "cannot reach the fleet: nats://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("fleet", "init", "--config", config, "--stream-bytes", "a lot")
    assert done.returncode == 2
    assert "--stream-bytes" in done.stderr
