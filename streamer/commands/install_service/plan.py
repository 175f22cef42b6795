"""The files of a service: their paths and their text."""

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

    A file with ``is_users`` is for the user to edit, so it is not replaced.
    """

    path: Path
    text: str
    mode: int = _UNIT
    is_users: bool = False


class Service(NamedTuple):
    """The names and the paths of a service.

    ``instance`` is its given name, or empty. ``name`` is the name of the unit without ``.service``, ``template`` that
    of the unit file. ``units`` is the folder of unit files, ``settings`` the folder of the configuration, and
    ``sysusers`` the file that creates the user of the service, if it has its own.
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
        """The options of systemctl and systemd-analyze that select the manager of this service."""
        return () if self.is_system else ("--user",)

    @property
    def systemctl(self) -> str:
        """The systemctl command that a user types."""
        return "sudo systemctl" if self.is_system else "systemctl --user"

    @property
    def install_command(self) -> str:
        """The install command that a user types."""
        name = f" --name {self.instance}" if self.instance else ""
        return f"{'sudo ' * self.is_system}streamer install-service {'--system' if self.is_system else '--user'}{name}"

    @property
    def config(self) -> Path:
        """The configuration file that the unit names."""
        return self._setting("toml")

    @property
    def environment(self) -> Path:
        """The environment file that the unit names."""
        return self._setting("env")

    def _setting(self, suffix: str) -> Path:
        return self.settings / f"{self.name.rpartition('@')[2]}.{suffix}"

    @property
    def access(self) -> Path:
        """The drop-in with the paths that the service may read and write."""
        return self.units / f"{self.name}.service.d" / "access.conf"

    @property
    def path_unit(self) -> Path:
        """The unit that starts the service when a shard appears."""
        return self.units / f"{self.name}.path"

    @property
    def unit(self) -> Path:
        """The unit file; all instances of a system service share it."""
        return self.units / self.template

    @property
    def is_last(self) -> bool:
        """Whether no other instance shares files with this one."""
        return not any(path != self.access for path in self.units.glob("streamer@*.service.d/access.conf"))


def system_service(name: str | None, root: Path = Path("/")) -> Service:
    """Return the system service of a name.

    Args:
        name: The name of the instance; None for the default one.
        root: The parent of ``etc``.

    Raises:
        ConfigError: the name is not valid.
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
    """Return the service of the user of an environment.

    Raises:
        ConfigError: the name is not valid.
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
    """Return the commented example configuration."""
    return _data("config.toml")


def read_config(file: Path) -> tuple[str, list[Config]]:
    """Return the text of a configuration, and the configuration of each dataset.

    Raises:
        ConfigError: the file cannot be used, or means something else in another folder.
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
        service: The service.
        command: The program that the unit starts.
        text: The text of the configuration.
        configs: The configuration of each dataset; None for the example, which names no shards or database yet.

    Raises:
        ConfigError: the service could not reach a path of the configuration.
    """
    unit = _data("streamer@.service" if service.is_system else "streamer.service")
    found = [
        File(service.unit, unit.replace("@STREAMER@", _executable(command))),
        File(service.config, text, _CONFIG, is_users=True),
        File(service.environment, _environment(service), _SECRET, is_users=True),
    ]
    if service.sysusers is not None:
        found.append(File(service.sysusers, _data("sysusers.conf")))
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
