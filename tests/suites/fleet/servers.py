"""Real nats-servers on the loopback: one, or a cluster; killed, started again on what they left or on nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STARTS_WITHIN = 60.0
LOOPBACK = "127.0.0.1"

_CONFIG = """
server_name: {name}
listen: "{host}:{port}"
http: "{host}:{monitor}"
jetstream {{
  store_dir: "{store}"
  sync_interval: "{sync}"
  {limits}
}}
{options}
"""
_CLUSTER = """
cluster {{
  name: test
  listen: "{host}:{port}"
  routes: [{routes}]
}}
"""


_ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).read().decode())"


def binary() -> str:
    """Return where nats-server is: STREAMER_NATS_SERVER says it, else it is beside Python, where pip puts it."""
    return os.environ.get("STREAMER_NATS_SERVER") or str(Path(sys.executable).parent / "nats-server")


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Return ports that nobody listens on, all of them different."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in found]


class Server:
    """One server, for as long as the block it is opened for.

    Args:
        folder: where it keeps its streams, its configuration and its log.
        name: its name in the cluster.
        options: further text of its configuration.
        limits: further text of the block ``jetstream``.
        sync: its ``sync_interval``.
        host: the address it listens on.
        inside: a command that runs its arguments somewhere else, such as in a network of their own.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "one",
        *,
        options: str = "",
        limits: str = "",
        sync: str = "always",
        host: str = LOOPBACK,
        inside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.store = folder / f"{name}-store"
        self.log = folder / f"{name}.log"
        self.host = host
        self.options = options
        self.limits = limits
        self.sync = sync
        self.routes = ""
        self.asked_from: Sequence[str] = ()
        self.port, self.monitor_port, self.cluster_port = free_ports(3) if host == LOOPBACK else (4222, 8222, 6222)
        self._config = folder / f"{name}.conf"
        self._inside = inside
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        """Where it tells how it is."""
        return f"http://{self.host}:{self.monitor_port}"

    @property
    def trust(self) -> ssl.SSLContext | None:
        """Whom to trust there, where it shows a certificate."""
        return None

    @property
    def is_up(self) -> bool:
        """Say whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the number of its process, which runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        self.until(self.is_healthy)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; that it can be used is another matter."""
        self.write_config()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*self._inside, binary(), "-c", str(self._config)], stderr=log)

    def write_config(self) -> None:
        """Write what it is started with."""
        self._config.write_text(
            _CONFIG.format(
                name=self.name, host=self.host, port=self.port, monitor=self.monitor_port, store=self.store,
                sync=self.sync, limits=self.limits, options=self.options + self.routes,
            )
        )  # fmt: skip

    def kill(self) -> None:
        """Kill it as the kernel would: nothing of it runs any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Take its disk away."""
        assert not self.is_up
        shutil.rmtree(self.store, ignore_errors=True)

    def ask(self, path: str) -> Any:
        """Return what its monitoring says, or None where it does not answer, or answers that it is not well."""
        url = f"{self.monitor}{path}"
        if self.asked_from:
            done = subprocess.run([*self.asked_from, sys.executable, "-c", _ASK, url], capture_output=True, check=False)
            return json.loads(done.stdout) if done.returncode == 0 else None
        with suppress(OSError), urllib.request.urlopen(url, timeout=5, context=self.trust) as answer:
            return json.load(answer)
        return None

    def is_healthy(self) -> bool:
        """Say whether it is well, and its streams are up to date."""
        return self.ask("/healthz") is not None

    def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as a condition holds of a server that is up."""
        deadline = time.monotonic() + _STARTS_WITHIN
        while not condition():
            assert self.is_up, f"{self.name} has ended:\n{self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{self.name} does not get that far:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.02)  # a real process takes real time


class Cluster:
    """Servers that hold each stream together, for as long as the block it is opened for."""

    def __init__(self, servers: Sequence[Server], ask: Sequence[str] = ()) -> None:
        self.servers = list(servers)
        for server in servers:
            server.asked_from = ask
        addresses = [f'"nats://{server.host}:{server.cluster_port}"' for server in servers]
        for server in servers:
            server.routes = _CLUSTER.format(host=server.host, port=server.cluster_port, routes=", ".join(addresses))

    @classmethod
    def of(cls, folder: Path, size: int = 3, **more: Any) -> Self:
        """Return a cluster of so many servers on the loopback; ``more`` goes to each of them."""
        return cls([Server(folder, f"n{number}", **more) for number in range(1, size + 1)])

    @property
    def urls(self) -> list[str]:
        """Where clients find its servers."""
        return [server.url for server in self.servers]

    @property
    def monitors(self) -> list[str]:
        """Where its servers tell how they are."""
        return [server.monitor for server in self.servers]

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        self.settle()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()

    def settle(self) -> None:
        """Return when all servers are up and up to date, and name the same one as their leader."""
        self.servers[0].until(self._is_settled)

    def _is_settled(self) -> bool:
        found = [(server.ask("/jsz") or {}).get("meta_cluster") or {} for server in self.servers]
        leaders = {meta.get("leader") for meta in found if meta.get("cluster_size") == len(self.servers)}
        agree = len(leaders) == 1 and all(leaders) and all(meta.get("leader") for meta in found)
        return agree and all(server.is_healthy() for server in self.servers)

    def leader(self, stream: str) -> Server | None:
        """Return the server that leads a stream now, as those say that are up; None if there is none."""
        for server in (one for one in self.servers if one.is_up):
            for account in (server.ask("/jsz?streams=true") or {}).get("account_details", ()):
                for one in account.get("stream_detail", ()):
                    name = one.get("cluster", {}).get("leader")
                    if one["name"] == stream and name:
                        return next((found for found in self.servers if found.name == name and found.is_up), None)
        return None

    def until_led(self, stream: str) -> Server:
        """Return the server that leads a stream, as soon as there is one."""
        up = next(server for server in self.servers if server.is_up)
        up.until(lambda: self.leader(stream) is not None)
        leader = self.leader(stream)
        assert leader is not None
        return leader

    def kill(self) -> None:
        """Kill all servers."""
        for server in self.servers:
            server.kill()

    def restart(self) -> None:
        """Start those that are down, and wait for all of them."""
        for server in self.servers:
            if not server.is_up:
                server.start()
        self.settle()

    def wipe(self) -> None:
        """Take all disks away from servers that are down."""
        for server in self.servers:
            server.wipe()
