"""``streamer fleet``: set up, inspect and change what the hosts of a fleet share."""

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer

from streamer import config as configuration
from streamer.base.errors import ConfigError
from streamer.base.files import Files
from streamer.base.stdout import until_enough
from streamer.base.text import printable
from streamer.config.fleet_names import Names, parse_partitions
from streamer.config.fleet_table import Fleet
from streamer.config.values import BadValueError, shown_value, size
from streamer.core.records.key import DedupBy
from streamer.fleet import durability, server_config, setup, survey
from streamer.fleet.connection import check_dedup, connected, stream_of
from streamer.fleet.server_config import ServerPlan
from streamer.fleet.setup import SetupFinding, SetupState, Wanted
from streamer.fleet.takeover import Takeover, shown, take_over

fleet = typer.Typer(
    help="Set up, look at and change what the hosts of a fleet share: many hosts, one dataset.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_CONFIG = Annotated[Path | None, typer.Option(help="The config.toml of any host of the fleet.")]


@fleet.command()
def init(  # noqa: PLR0913 - the options of the command
    *,
    config: _CONFIG = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=5, help="Servers that hold each record; 3 where none is said.")
    ] = None,
    stream_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Records on their way, at most; 8GiB where none is said.")
    ] = None,
    object_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Large records, and keys on their way; else 2GiB.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Change what differs, as far as that is possible.")] = False,
    after_loss: Annotated[
        bool, typer.Option("--after-loss", help="The servers lost all: buckets wait for who had them.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--server-config", metavar="DIR", help="Write configurations of servers instead.")
    ] = None,
    servers: Annotated[str, typer.Option(metavar="A,B,C", help="With it: the hosts of the servers.")] = "",
    collectors: Annotated[str, typer.Option(metavar="A,B", help="With it: the hosts that evaluate.")] = "",
    writers: Annotated[str, typer.Option(metavar="A", help="With it: the hosts that write the dataset.")] = "",
    etc: Annotated[str, typer.Option(help="With it: where the files will be on a server.")] = "/etc/nats",
    data: Annotated[str, typer.Option(help="With it: where a server keeps records.")] = "/var/lib/nats",
) -> None:
    """Make what a fleet needs on its servers, or say how what is there differs.

    Makes the stream, a consumer for each bucket, and what large records and owners of buckets need. What is there is
    compared, and changed only with --fix. Then the servers are asked whether they sync what they acknowledge.

    With --server-config it talks to nobody: it writes configurations for nats-server with TLS, and a key for each
    host that lets it do what it has to and no more. Keys and certificates that are there are kept.

    Exit code: 0 all is as it should be, 1 something differs, 2 wrong configuration, 3 the servers cannot be reached,
    or refuse.

    Example: streamer fleet init --config writer.toml --replicas 3 --stream-bytes 50GiB

    Example: streamer fleet init --config writer.toml --server-config nats --servers n1,n2,n3 --collectors e1,e2
    --writers w1
    """
    if folder is not None:
        what, _ = configuration.fleet(config, os.environ, "fleet.dataset")
        plan = ServerPlan(_hosts(servers), _hosts(collectors), _hosts(writers), etc, data)
        _print(_write(folder, plan, Names(what.prefix, what.dataset)))
        return
    what, dedup = configuration.fleet(config, os.environ)
    sizes = (_bytes(stream_bytes, "--stream-bytes"), _bytes(object_bytes, "--object-bytes"))
    wanted = Wanted(what.buckets, dedup, replicas, *sizes)
    found, synced = anyio.run(partial(_set_up, what, wanted, fix=fix, after_loss=after_loss))
    _print(_setup_lines(found, synced))
    if any(one.state is SetupState.DIFFERS for one in found) or not all(one.is_good for one in synced):
        raise typer.Exit(1)


@fleet.command()
def status(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Over how long rates are taken.")] = 1.0,
    config: _CONFIG = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
) -> None:
    """Say what is on its way, who writes which bucket, how far it is behind, and which collectors are silent.

    Asks the servers alone; the hosts may be down. With --json --watch each answer is one line.

    Exit code: 0 answered, 2 wrong configuration, 3 the servers cannot be reached.

    Example: streamer fleet status --config writer.toml --watch --seconds 5
    """
    what, _ = configuration.fleet(config, os.environ)
    with until_enough():
        anyio.run(partial(_survey, what, seconds, watch=watch, as_json=as_json))


async def _survey(what: Fleet, seconds: float, *, watch: bool, as_json: bool) -> None:
    names = Names(what.prefix, what.dataset)
    async with connected(what, "streamer fleet status") as link:
        stream = await stream_of(link, names)
        before = await survey.look(link, names, stream, time.time())
        while True:
            await anyio.sleep(seconds)
            after = await survey.look(link, names, stream, time.time())
            speed = survey.rates(before, after)
            synced = await durability.look(what.monitor, what.tls_ca)
            if as_json:
                servers = [one._asdict() for one in synced]
                said = {**msgspec.to_builtins(after), "rates": msgspec.to_builtins(speed), "servers": servers}
                typer.echo(msgspec.json.encode(said) if watch else msgspec.json.format(msgspec.json.encode(said)))
            else:
                _print(survey.lines(after, speed))
                _print(f"server    {one}" for one in synced)
            if not watch:
                return
            before = after


@fleet.command()
def take(
    partitions: Annotated[str, typer.Argument(metavar="BUCKETS", help="Such as 0-7,12.")],
    *,
    from_dataset: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A copy of the dataset of the writer that had them.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="There is no copy: what it wrote may be written once more.")
    ] = False,
    config: _CONFIG = None,
) -> None:
    """Let other writers have the buckets of one that is gone for good.

    A writer that still runs hands its buckets over itself: give it other source.buckets, and restart it. For one that
    will never come back the keys of its records are computed from a copy of its dataset, so that they do not come in
    again. The next writer whose source.buckets name them takes them.

    Exit code: 0 done, 2 wrong usage or configuration, 3 the servers or the dataset cannot be reached, 5 the dataset is
    being written, is no dataset, or the buckets have another owner by now.

    Example: streamer fleet take 8-15 --from-dataset backup/good.jsonl --config writer.toml
    """
    if (from_dataset is None) is not without_keys:
        raise typer.BadParameter("give --from-dataset PATH, or --without-keys", param_hint="BUCKETS")
    wanted = parse_partitions(partitions)
    if wanted is None:
        raise typer.BadParameter('numbers of buckets such as "0-7,12"', param_hint="BUCKETS")
    what, by = configuration.fleet(config, os.environ)
    _print(shown(anyio.run(_take, what, by, wanted, from_dataset)))
    typer.echo("next: start a writer whose source.buckets name them")


async def _take(what: Fleet, by: DedupBy, wanted: frozenset[int], dataset: Path | None) -> list[Takeover]:
    names = Names(what.prefix, what.dataset)
    async with connected(what, "streamer fleet take") as link:
        stream = await stream_of(link, names)
        check_dedup(stream, names, by)
        return await take_over(link, names, wanted, stream.partitions, by, dataset)


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        typer.echo(line)


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(host for host in (piece.strip() for piece in text.split(",")) if host)


def _bytes(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    try:
        return int(size(int(text) if text.isascii() and text.isdigit() else text, Path()))
    except BadValueError as unfit:
        raise ConfigError("set up the fleet", flag, f"{shown_value(text)} is not {unfit}") from None


async def _set_up(
    what: Fleet, wanted: Wanted, *, fix: bool, after_loss: bool
) -> tuple[list[SetupFinding], list[durability.ServerSync]]:
    async with connected(what, "streamer fleet init") as link:
        found = await setup.set_up(link, Names(what.prefix, what.dataset), wanted, fix=fix, after_loss=after_loss)
    return found, await durability.look(what.monitor, what.tls_ca)


def _setup_lines(found: list[SetupFinding], synced: list[durability.ServerSync]) -> Iterator[str]:
    for what, state, differences in found:
        yield f"{state:<8} {what}"
        for difference in differences:
            yield f"         {difference}"
    for one in synced:
        yield f"{'fine' if one.is_good else 'differs':<8} {one}"
    if not synced:
        yield "unknown  whether the servers sync what they acknowledge: set fleet.monitor to see"
    if any(state is SetupState.DIFFERS for _, state, _ in found):
        yield "next: --fix changes what can be changed in use; the rest needs another fleet.dataset or fleet.prefix"


def _write(folder: Path, plan: ServerPlan, names: Names) -> Iterator[str]:
    for path in server_config.write(folder, plan, names, Files(), time.time()):
        yield f"wrote    {printable(str(path))}"
    yield ""
    yield "next:"
    yield f"  copy {printable(str(folder))}/servers/HOST/ to {plan.etc} on each server, and start"
    yield f"    nats-server -c {plan.etc}/nats-server.conf"
    yield "  copy collectors/HOST/ and writers/HOST/ to the hosts, and say in their config.toml"
    yield "    [fleet]"
    yield f"    servers = {_urls('tls', plan, server_config.CLIENTS)}"
    yield f"    monitor = {_urls('https', plan, server_config.MONITORING)}"
    yield f'    dataset = "{names.dataset}"'
    yield '    nkey = "fleet.nk"'
    yield '    tls_ca = "ca.pem"'
    yield "  then, with admin/fleet.nk as nkey: streamer fleet init"
    yield "keep ca.key to yourself: it belongs on no server"


def _urls(scheme: str, plan: ServerPlan, port: int) -> str:
    return json.dumps([f"{scheme}://{server_config.address(host, port)}" for host in plan.servers])
