"""What the other tests of the fleet stand on: servers that can be killed, and come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import nats
from nats.js.api import StreamConfig

if TYPE_CHECKING:
    from tests.suites.fleet.servers import Cluster, Server


def messages(urls: list[str], *, create: bool = False, publish: int = 0) -> int | None:
    """Publish to the stream ``t`` and return how many messages it holds; None if there is no such stream."""

    async def main() -> int | None:
        client = await nats.connect(urls)
        try:
            js = client.jetstream(timeout=20)
            if create:
                await js.add_stream(StreamConfig(name="t", subjects=["t.*"], num_replicas=min(3, len(urls))))
            for number in range(publish):
                await js.publish("t.1", b"%d" % number)
            info: Any = await js.stream_info("t")
            return int(info.state.messages)
        except nats.js.errors.NotFoundError:
            return None
        finally:
            await client.close()

    return anyio.run(main)


def test_a_server_that_is_killed_comes_back_with_what_it_acknowledged(server: Server) -> None:
    """And without its disk it comes back with nothing."""
    assert messages([server.url], create=True, publish=20) == 20
    server.kill()
    server.start()
    server.until(server.is_healthy)
    assert messages([server.url]) == 20
    server.kill()
    server.wipe()
    server.start()
    server.until(server.is_healthy)
    assert messages([server.url]) is None


def test_a_cluster_goes_on_without_the_leader_of_a_stream(cluster: Cluster) -> None:
    """Two of three acknowledge; the third is up to date when it is back."""
    assert messages(cluster.urls, create=True) == 0
    leader = cluster.until_led("t")
    # Over its leader: the others may not have heard yet that somebody takes what is published to a new stream.
    assert messages([leader.url], publish=10) == 10
    leader.kill()
    successor = cluster.until_led("t")
    assert messages([successor.url], publish=10) == 20
    cluster.restart()
    assert messages([leader.url]) == 20
