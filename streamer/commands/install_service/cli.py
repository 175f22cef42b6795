"""``streamer install-service``: the daemon as a service of systemd."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamer.base.errors import ConfigError
from streamer.base.files import Files
from streamer.base.text import printable
from streamer.commands.install_service import install, plan, program
from streamer.commands.install_service.install import Change, Step
from streamer.commands.install_service.plan import Service
from streamer.commands.install_service.stamp import stamped, without_stamp


def install_service(
    *,
    system: Annotated[
        bool | None,
        typer.Option("--system/--user", help="For the machine, or for yourself; else as you are root or not."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the instance, one for each dataset.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration to install; else the one that is there, else an example.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove the service, but not its dataset.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also files that were edited, or that others wrote.")] = False,
) -> None:
    """Install the daemon as a service of systemd, and say what to run next.

    Writes the unit, its environment file and the configuration, and has systemd check them. What was edited since is
    kept. Call it again after an upgrade, or when shards, database or dataset have moved. Nothing is started or stopped.

    Exit code: 0 done, 2 wrong configuration or command, 3 no systemd, or files that cannot be written, 5 it would
    replace what others wrote, or remove a service that is running.

    Example: sudo streamer install-service --system --name crafter --config crafter.toml
    """
    is_system = os.geteuid() == 0 if system is None else system
    service = plan.system_service(name) if is_system else plan.user_service(name, os.environ)
    if uninstall:
        if config is not None:
            raise ConfigError("uninstall", "--config", "it is not needed for that", "leave it out")
        steps, after = install.steps_to_uninstall(service, install.own_paths(service), force=force), _gone(service)
    else:
        command = program.installed()
        if is_system:
            program.check_for_all(command)
        steps, after = _install(service, command, config, force=force)
    for line in _shown(steps) if dry_run else [*_done(steps), "", "next:", *after]:
        typer.echo(line)


def _install(service: Service, command: Path, config: Path | None, *, force: bool) -> tuple[list[Step], list[str]]:
    file = config or (service.config if service.config.exists() else None)
    text, settings = plan.read_config(file) if file is not None else (plan.example(), None)
    files = plan.files(service, command, without_stamp(text), settings)
    replaced = frozenset({service.config} if config is not None else ())
    steps = install.steps_to_install(files, force=force, replace=replaced)
    install.verify(service, files)
    return steps, _next(service, is_ready=settings is not None)


def _done(steps: list[Step]) -> Iterator[str]:
    install.carry_out(steps, Files())
    for change, file, why in steps:
        yield f"{change:<8} {printable(str(file.path))}{why and f': {why}'}"


def _shown(steps: Iterable[Step]) -> Iterator[str]:
    would = {
        Change.WRITE: "would write",
        Change.REMOVE: "would remove",
        Change.KEEP: "would keep",
        Change.LEAVE: "would leave",
    }
    for change, file, why in steps:
        yield f"# {would[change]} {printable(str(file.path))}{why and f': {why}'}"
        if change is Change.WRITE:
            yield from map(printable, stamped(file.text).splitlines())
            yield ""


def _next(service: Service, *, is_ready: bool) -> list[str]:
    if not is_ready:
        return [f"  set source.shards and source.database in {service.config}", f"  {service.install_command}"]
    lines = ["  sudo systemd-sysusers"] if service.is_system else []
    lines += [f"  {service.systemctl} daemon-reload", f"  {service.systemctl} enable --now {service.name}"]
    if not service.is_system:
        lines.append('  loginctl enable-linger "$USER"    # to let it run while you are logged out')
    return lines


def _gone(service: Service) -> list[str]:
    return [f"  {service.systemctl} daemon-reload", "", "the dataset and its ledger are where they were"]
