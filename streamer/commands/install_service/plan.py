"""Which files make a service, where each of them belongs, and what stands in it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from streamer.base.errors import ConfigError
from streamer.commands.install_service.access import system_access, unit_path, user_access
from streamer.config import Config, Flags, changes, load_all

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEFAULT_NAME = "default"
_UNIT, _CONFIG, _SECRET = 0o644, 0o644, 0o600


class File(NamedTuple):
    """One file of a service.

    ``is_users`` says that it is there to be edited: once it exists, it is left as it is. ``is_shared`` says that it
    belongs to all instances.
    """

    path: Path
    text: str
    mode: int = _UNIT
    is_users: bool = False
    is_shared: bool = False


class Service(NamedTuple):
    """The service of one dataset, by its names and places.

    ``instance`` is the name that it was given, empty for none. ``name`` is that of the unit without ``.service``, and
    ``template`` that of its file. ``units`` is where its manager looks for units, ``settings`` where its configuration
    belongs, and ``sysusers`` what makes its user, if it has one of its own.
    """

    is_system: bool
    instance: str
    name: str
    template: str
    units: Path
    settings: Path
    sysusers: Path | None = None

    @property
    def manager(self) -> tuple[str, ...]:
        """The options that lead systemctl and systemd-analyze to the manager of this service."""
        return () if self.is_system else ("--user",)

    @property
    def systemctl(self) -> str:
        """The command, as a person types it."""
        return "sudo systemctl" if self.is_system else "systemctl --user"

    @property
    def install_command(self) -> str:
        """The command that installs it, as a person types it."""
        name = f" --name {self.instance}" if self.instance else ""
        return f"{'sudo ' * self.is_system}streamer install-service {'--system' if self.is_system else '--user'}{name}"

    @property
    def config(self) -> Path:
        """The configuration, with the name that the unit expects."""
        return self._setting("toml")

    @property
    def environment(self) -> Path:
        """The environment file."""
        return self._setting("env")

    def _setting(self, suffix: str) -> Path:
        return self.settings / f"{self.name.rpartition('@')[2]}.{suffix}"

    @property
    def access(self) -> Path:
        """The drop-in that says what it may see and write."""
        return self.units / f"{self.name}.service.d" / "access.conf"

    @property
    def path_unit(self) -> Path:
        """The unit that starts it with a shard."""
        return self.units / f"{self.name}.path"

    @property
    def unit(self) -> Path:
        """The unit file: of all instances, if it is a system service."""
        return self.units / self.template

    @property
    def is_last(self) -> bool:
        """Say whether no other instance shares files with this one."""
        return not any(path != self.access for path in self.units.glob("streamer@*.service.d/access.conf"))


def system_service(name: str | None, root: Path = Path("/")) -> Service:
    """Return the system service of a name.

    Args:
        name: of the instance; None for the default one.
        root: the folder that ``/etc`` is in.

    Raises:
        ConfigError: the name cannot be one.
    """
    instance = _checked(name or _DEFAULT_NAME)
    etc = root / "etc"
    return Service(
        is_system=True,
        instance=instance,
        name=f"streamer@{instance}",
        template="streamer@.service",
        units=etc / "systemd" / "system",
        settings=etc / "streamer",
        sysusers=etc / "sysusers.d" / "streamer.conf",
    )


def user_service(name: str | None, environ: Mapping[str, str]) -> Service:
    """Return the service of the user whose environment it is.

    Raises:
        ConfigError: the name cannot be one.
    """
    unit = f"streamer-{_checked(name)}" if name else "streamer"
    settings = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Service(
        is_system=False,
        instance=name or "",
        name=unit,
        template=f"{unit}.service",
        units=settings / "systemd" / "user",
        settings=settings / "streamer",
    )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        hint = "letters, digits, and -_. after the first of them, 64 at most"
        raise ConfigError("name the service", "--name", f"{name!r} cannot be the name of a unit", hint)
    return name


def example() -> str:
    """Return the commented example of a configuration."""
    return _data("config.toml")


def read_config(file: Path) -> tuple[str, list[Config]]:
    """Return the text of a configuration, and what it says of each dataset.

    Raises:
        ConfigError: it cannot be used, or not from another folder.
    """
    here = load_all(file, {}, Flags())
    text = file.read_text(encoding="utf-8-sig")
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder, file.name)
        elsewhere.write_text(text, encoding="utf-8")
        there = load_all(elsewhere, {}, Flags())
        pairs = zip(here, there, strict=True)
        relative = list(dict.fromkeys(key for one, other in pairs for keys in changes(one, other) for key in keys))
    if relative:
        hint = "a service needs the whole path: its configuration lies elsewhere"
        raise ConfigError("use the configuration", str(file), f"{', '.join(relative)}: a relative path", hint)
    return text, here


def files(service: Service, command: Path, text: str, configs: Sequence[Config] | None) -> list[File]:
    """Return all files of a service.

    Args:
        service: which one.
        command: what the unit starts.
        text: the configuration.
        configs: what the configuration says of each dataset; None for the example, which says nothing of shards and
            database yet.

    Raises:
        ConfigError: the service could not reach what the configuration names.
    """
    unit = _data("streamer@.service" if service.is_system else "streamer.service")
    found = [
        File(service.unit, unit.replace("@STREAMER@", _executable(command)), is_shared=service.is_system),
        File(service.config, text, _CONFIG, is_users=True),
        File(service.environment, _environment(service), _SECRET, is_users=True),
    ]
    if service.sysusers is not None:
        found.append(File(service.sysusers, _data("sysusers.conf"), is_shared=True))
    if configs is not None:
        state = Path("/var/lib/streamer", service.instance)
        access = system_access(configs, state) if service.is_system else user_access(configs[0])
        if access:
            found.append(File(service.access, access))
        source = configs[0].source
        if source.reads_shards:
            found.append(File(service.path_unit, _path_unit(service, source.shards)))
    return found


def _executable(command: Path) -> str:
    text = unit_path(command)
    if " " in text or "$" in text:
        hint = "install streamer below a path without them"
        raise ConfigError("write the unit", text, "systemd starts no command with a space or a $ in its path", hint)
    return text


def _environment(service: Service) -> str:
    text = _data("environment")
    return text.replace("@UNIT@", f"{service.name}.service").replace("@PATH_UNIT@", service.path_unit.name)


def _path_unit(service: Service, shards: Path) -> str:
    target = "multi-user.target" if service.is_system else "default.target"
    text = _data("streamer.path").replace("@NAME@", service.name).replace("@TARGET@", target)
    return text.replace("@SHARDS@", unit_path(shards))


def _data(name: str) -> str:
    return resources.files("streamer.commands.install_service").joinpath("units", name).read_text(encoding="utf-8")
