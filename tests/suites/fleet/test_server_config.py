"""Configurations that `streamer fleet init --server-config` writes, with the servers that run them."""

from __future__ import annotations

import os
import secrets
import signal
import ssl
import stat
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import nats
import nkeys
import pytest
from nats.js.api import StreamConfig

from streamer.fleet.permissions import inbox_of
from tests.helpers.place import PATIENCE
from tests.helpers.producer import dialogue
from tests.suites.fleet.company import Company, Rollout
from tests.suites.fleet.fleets import OWNERS, STREAM, at, init, public_key, run, write_config
from tests.suites.fleet.servers import Cluster, Server, binary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from nats.js import JetStreamContext

HOSTS = ("--collectors", "eval-1,eval-2", "--writers", "w-1")


def addresses() -> list[str]:
    """Return three addresses of this machine alone, that no other process of the tests listens on."""
    pid = os.getpid()
    return [f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{number}" for number in (1, 2, 3)]


class Written:
    """A folder with configurations, and servers that run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "nats"
        self.hosts = addresses()
        self.config = write_config(folder / "c.toml", ["nats://nobody"], (), "buckets = 4")
        self.said = ""
        for host in self.hosts:  # each of them reads its own files here, which on real servers have the same place
            here = self.folder / "servers" / host
            self.said += self.write("--etc", here, "--data", folder / f"{host}-store")
            os.rename(here / "nats-server.conf", folder / f"{host}.conf")
        self.cluster = Cluster([Configured(folder, host, host.replace(".", "-")) for host in self.hosts])

    def write(self, *more: object, code: int = 0) -> str:
        """Run the command; return what it says."""
        done = run("fleet", "init", "--config", self.config, "--server-config", self.folder,
                   "--servers", ",".join(self.hosts), *HOSTS, *more)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def fleet(self, user: str) -> str:
        """Return what a host of a user has in its configuration."""
        return f'nkey = "{self.folder}/{user}/fleet.nk"\ntls_ca = "{self.folder}/{user}/ca.pem"\nbuckets = 4'

    def user_config(self, user: str) -> Path:
        """Return the configuration of a user."""
        file = self.folder.parent / f"{user.replace('/', '-')}.toml"
        monitors = [f"https://{host}:8222" for host in self.hosts]
        return write_config(file, [f"tls://{host}:4222" for host in self.hosts], monitors, self.fleet(user))

    def at(self, user: str, work: Callable[[JetStreamContext], Awaitable[Any]]) -> Any:
        """Do something as a user."""
        seed = self.folder / user / "fleet.nk"
        context = ssl.create_default_context(cafile=self.folder / user / "ca.pem")
        return at([f"tls://{host}:4222" for host in self.hosts], work, tls=context, nkeys_seed=str(seed),
                  inbox_prefix=inbox_of(public_key(seed)))  # fmt: skip


class Configured(Server):
    """A server that runs a configuration which is there."""

    def __init__(self, folder: Path, host: str, name: str) -> None:
        super().__init__(folder, name, host=host)
        self._config = folder / f"{host}.conf"
        self._ca = folder / "nats" / "ca.pem"

    @property
    def monitor(self) -> str:
        """Where it tells how it is."""
        return f"https://{self.host}:{self.monitor_port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """Whom to trust there."""
        return ssl.create_default_context(cafile=self._ca)

    def write_config(self) -> None:
        """Leave it as it is."""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return configurations, nothing running."""
    return Written(tmp_path)


@contextmanager
def running(written: Written) -> Iterator[Written]:
    """Run the servers, set up by the user who may."""
    with written.cluster:
        init(written.user_config("admin"))
        yield written


def test_the_server_itself_takes_them_and_nothing_of_them_is_for_others(written: Written) -> None:
    """`nats-server -t` has nothing against them; keys can be read by their owner and group alone."""
    for host in written.hosts:
        done = subprocess.run([binary(), "-t", "-c", str(written.folder.parent / f"{host}.conf")], capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    files = [path for path in written.folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o007 for path in files} == {0}
    assert "ca.key" not in {path.name for path in (written.folder / "servers").rglob("*")}
    assert 'nkey = "fleet.nk"' in written.said


def test_keys_and_certificates_stay_when_it_is_called_again(written: Written) -> None:
    """Another host gets a key, the others keep theirs; a lost authority makes no other one behind anybody's back."""
    before = {path: path.read_bytes() for path in written.folder.rglob("*") if path.suffix in (".nk", ".pem", ".key")}
    said = written.write("--collectors", "eval-1,eval-2,eval-3")
    after = {path: path.read_bytes() for path in written.folder.rglob("*") if path.suffix in (".nk", ".pem", ".key")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"eval-3"}
    assert "eval-3" in said
    (written.folder / "ca.key").unlink()
    written.write()
    (written.folder / "servers" / written.hosts[0] / "server.key").unlink()
    assert "needs a certificate" in written.write(code=5)


def test_names_that_cannot_be_hosts_are_refused(written: Written) -> None:
    """Before anything is written: they would be paths, or text of a configuration."""
    for name in ("../x", 'a"b', "a b", "", "-x", "eval-1,eval-1", "a.b,a-b"):
        said = written.write("--collectors", name, code=2)
        assert "cannot write configurations of servers: collectors" in said
    assert not (written.folder.parent / "x").exists()


def test_each_user_can_do_what_it_has_to_and_no_more(written: Written) -> None:
    """A collector only publishes; a writer publishes no records; who sets up is somebody else."""
    with running(written):
        written.at("collectors/eval-1", collector_publishes)
        written.at("writers/w-1", writer_works)
        for user, subject in REFUSED:
            refused = written.at(user, partial(complaint, subject=subject))
            assert refused.lower().startswith("nats: permissions violation for publish to"), (user, subject, refused)
        for user, subject in UNHEARD:
            refused = written.at(user, partial(complaint, subject=subject, subscribe=True))
            assert refused.lower().startswith("nats: permissions violation for subscription to"), (user, subject)
        done = run("fleet", "init", "--config", written.user_config("collectors/eval-1"))
        assert done.returncode == 3


def test_strangers_are_not_let_in(written: Written) -> None:
    """Neither without a key, nor with one that no server knows, nor without TLS that checks out."""
    with running(written):
        stranger = written.folder.parent / "stranger"
        ca = f'tls_ca = "{written.folder}/ca.pem"'
        other = f'nkey = "{other_seed(written.folder)}"'
        for fleet in ("", ca, f"{ca}\n{other}"):
            config = write_config(stranger, [f"tls://{written.hosts[0]}:4222"], (), fleet)
            done = run("fleet", "init", "--config", config)
            assert done.returncode == 3
            assert "Traceback" not in done.stderr


def other_seed(folder: Path) -> Path:
    """Return a key that was made for nobody."""
    file = folder / "other.nk"
    file.write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return file


def test_collectors_and_writers_need_no_more_than_they_may(written: Written) -> None:
    """Over TLS, with a key for each host: small records, one larger than a message, and a writer that restarts."""
    with running(written):
        hosts = Company(written.folder.parent / "hosts", [f"tls://{host}:4222" for host in written.hosts], 2, ("0-3",))
        writer = hosts.writers[0]
        for host, user in zip((*hosts.collectors, writer), ("collectors/eval-1", "collectors/eval-2", "writers/w-1"),
                              strict=True):  # fmt: skip
            host.config.write_text(
                host.config.read_text().replace(f'name = "{host.folder.name}"', f'name = "{user.partition("/")[2]}"')
                .replace("[fleet]\n", f"[fleet]\n{written.fleet(user)}\n")
            )  # fmt: skip
        with hosts:
            hosts.play(6)
            large = Rollout(100)
            noise = secrets.token_hex(9 << 20)  # more than a message holds, also when it is packed
            large.values = [dialogue(large.run, 0, noise)]
            hosts.rollouts.append(large)
            hosts.collectors[0].plays([large])
            hosts.settle()
            hosts.check()
            writer.end(signal.SIGTERM)
            hosts.play(3)
            writer.start()
            hosts.settle()
            hosts.check()
        for host in (*hosts.collectors, writer):
            assert "ermissions" not in host.log.read_text()


REFUSED = [
    ("collectors/eval-1", f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.bucket-0"),
    ("collectors/eval-1", f"$JS.API.STREAM.MSG.GET.{STREAM}"),
    ("collectors/eval-1", f"$JS.API.STREAM.MSG.GET.OBJ_{STREAM}-objects"),
    ("collectors/eval-1", f"$JS.API.STREAM.PURGE.{STREAM}"),
    ("collectors/eval-1", f"$JS.API.STREAM.DELETE.{STREAM}"),
    ("collectors/eval-1", "$JS.API.STREAM.CREATE.mine"),
    ("collectors/eval-1", f"$KV.{OWNERS}.0"),
    ("collectors/eval-1", f"$O.{STREAM}-keys.M.a2V5cy0w"),
    ("collectors/eval-1", "streamer.receipt.crafter.eval-1.x"),
    ("collectors/eval-1", "streamer.alive.crafter.eval-2.x"),
    ("collectors/eval-1", "streamer.other.0"),
    ("writers/w-1", "streamer.crafter.0"),
    ("writers/w-1", f"$JS.API.STREAM.DELETE.{STREAM}"),
    ("writers/w-1", f"$JS.API.STREAM.PURGE.{STREAM}"),
    ("writers/w-1", f"$JS.API.CONSUMER.DELETE.{STREAM}.bucket-0"),
    ("writers/w-1", "$JS.API.STREAM.CREATE.mine"),
]
UNHEARD = [
    ("collectors/eval-1", "streamer.crafter.*"),
    ("collectors/eval-1", "streamer.receipt.crafter.eval-2.*"),
    ("collectors/eval-1", "_INBOX.>"),
    ("collectors/eval-1", ">"),
    ("collectors/eval-1", "streamer.alive.crafter.*.*"),
    ("writers/w-1", "streamer.crafter.*"),
    ("writers/w-1", "_INBOX.>"),
]


async def collector_publishes(js: JetStreamContext) -> None:
    """Do what a collector does."""
    assert (await js.stream_info(STREAM)).config.name == STREAM
    ack = await js.publish("streamer.crafter.0", b"record", headers={"Nats-Msg-Id": "1"})
    assert ack.stream == STREAM
    await js._nc.subscribe("streamer.receipt.crafter.eval-1.*")
    await js._nc.publish("streamer.alive.crafter.eval-1.x", b"")
    await js._nc.flush()


async def writer_works(js: JetStreamContext) -> None:
    """Do what a writer does."""
    pull = await js.pull_subscribe_bind(durable="bucket-0", stream=STREAM)
    (message,) = await pull.fetch(1, timeout=10)
    assert message.data == b"record"
    await message.ack_sync()
    info = await js.consumer_info(STREAM, "bucket-0")
    assert (info.num_pending, info.num_ack_pending) == (0, 0)
    owners = await js.key_value(OWNERS)
    entry = await owners.get("0")
    await owners.update("0", b'{"state":"owned","writer":"w-1.x"}', last=entry.revision)
    for name in ("objects", "keys"):
        store = await js.object_store(f"{STREAM}-{name}")
        await store.put("one", b"k" * 300_000)
        assert (await store.get("one")).data == b"k" * 300_000
        await store.delete("one")
    heard = await js._nc.subscribe("streamer.ask.crafter.*")
    await js._nc.publish("streamer.receipt.crafter.eval-1.x", b"{}")
    await js._nc.flush()
    await heard.unsubscribe()


async def complaint(js: JetStreamContext, subject: str, *, subscribe: bool = False) -> str:
    """Publish to a subject, or listen there; return what the server has against it."""
    said: list[str] = []
    heard = anyio.Event()

    async def complain(error: Exception) -> None:
        said.append(str(error))
        heard.set()

    js._nc._error_cb = complain
    if subscribe:
        await js._nc.subscribe(subject)
    else:
        await js._nc.publish(subject, b"")
    with anyio.fail_after(PATIENCE):
        await heard.wait()
    return said[0]


def test_streams_of_others_are_out_of_reach(written: Written) -> None:
    """Each fleet has an account of its own: what others name alike on the same servers is not the same."""
    with running(written):

        async def make(js: JetStreamContext) -> None:
            await js.add_stream(StreamConfig(name="another", subjects=["another"]))

        with pytest.raises(nats.errors.TimeoutError):
            written.at("writers/w-1", make)
