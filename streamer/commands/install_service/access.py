"""Makes the drop-in that lets a service read and write the files of its configuration.

The drop-in mounts the parent of a shard folder. A mount of the folder itself would go on showing the old folder after
the producer has deleted it and made a new one. The folder itself is mounted only if its parent is a home, or holds
everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from streamer.base.errors import ConfigError
from streamer.commands.install_service.program import HIDDEN
from streamer.config import Config
from streamer.config.database_url import Server, locate

_OP = "let the service read"
_HOMES = """\
# Homes are empty but for what is shown, and cannot be written. (Under ProtectHome=tmpfs they could.)
ProtectHome=no
TemporaryFileSystem=/home:ro /root:ro /run/user:ro
"""
_NETWORK = """\
PrivateNetwork=no
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
"""
_UNFIT = re.compile(r'[\x00-\x1f\x7f"\\:]')


def system_access(configs: Sequence[Config], state: Path) -> str:
    """Return the drop-in of a system service.

    Args:
        configs: The configuration of each dataset.
        state: The folder that the service may always write to.

    Raises:
        ConfigError: the service could not find a path, or a path cannot be mounted.
    """
    return "".join(_system_access(configs, state))


def _system_access(configs: Sequence[Config], state: Path) -> Iterator[str]:
    config = configs[0]
    database = locate(config.source.database)
    read = [_mounted_for(config.source.shards)] if config.source.reads_shards else []
    if isinstance(database, Path):
        read.append(_folder_of(database, "source.database"))
    targets = [
        target
        for dataset in (one.dataset for one in configs)
        for target in (("dataset.path", dataset.path), ("dataset.ledger", dataset.ledger))
    ]
    written = [_folder_of(path, key) for key, path in targets if path.parent not in (Path(), state)]
    needed = _outermost([*read, *written])
    yield "# What streamer reads and writes, taken from its configuration.\n"
    if needed:
        yield f"[Unit]\nRequiresMountsFor={_listed(needed)}\n\n"
    yield "[Service]\n"
    if any(_is_in_home(path) for path in needed):
        yield _HOMES
    if hidden := _outermost(path for path in read if _is_hidden(path)):
        yield f"BindReadOnlyPaths={_listed(hidden)}\n"
    if hidden := _outermost(path for path in written if _is_hidden(path)):
        yield f"BindPaths={_listed(hidden)}\n"
    if others := _outermost(path for path in written if not _is_hidden(path)):
        yield f"ReadWritePaths={_listed(others)}\n"
    yield from _network(config)


def user_access(config: Config) -> str:
    """Return the drop-in of a user's service; empty unless it needs the network."""
    network = "".join(_network(config))
    return f"[Service]{network}" if network else ""


def _network(config: Config) -> Iterator[str]:
    """Yield the settings that open the network as far as a database server or the web UI needs it."""
    server, listen = isinstance(locate(config.source.database), Server), config.web.listen
    if not server and listen is None:
        return
    yield "\n"
    if server:
        yield "# The trace database is on a server.\n"
    if listen is not None:
        yield f"# The page is served at {listen}.\n"
    yield _NETWORK
    only_here = not server and listen is not None and listen.is_loopback
    yield "IPAddressAllow=localhost\n" if only_here else "IPAddressDeny=\n"


def _mounted_for(folder: Path) -> Path:
    """Return the folder to mount for a shard folder."""
    _require_absolute(folder, "source.shards")
    return folder if _is_wide(folder.parent) else folder.parent


def _folder_of(file: Path, key: str) -> Path:
    _require_absolute(file, key)
    if _is_wide(file.parent):
        hint = "move it into a folder of its own there"
        raise ConfigError(_OP, f"{key} = {file}", f"{file.parent} as a whole is not shown to the service", hint)
    return file.parent


def _is_wide(folder: Path) -> bool:
    """Return whether a folder holds unrelated files, as a home does."""
    return folder in HIDDEN or folder.parent == Path("/home")


def _require_absolute(path: Path, key: str) -> None:
    if not path.is_absolute():
        raise ConfigError(_OP, f"{key} = {path}", "it is a relative path", "a service needs the whole path")


def _is_hidden(path: Path) -> bool:
    return any(root in path.parents for root in HIDDEN)


def _is_in_home(path: Path) -> bool:
    return any(Path(root) in path.parents for root in ("/home", "/root", "/run/user"))


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are not below another one of them."""
    found = set(paths)
    return sorted(path for path in found if not found & set(path.parents))


def _listed(paths: Iterable[Path]) -> str:
    return " ".join(f'"{unit_path(path)}"' for path in paths)


def unit_path(path: Path) -> str:
    """Return a path as it is written in a unit.

    Raises:
        ConfigError: it has characters that a unit cannot hold.
    """
    if _UNFIT.search(str(path)):
        cause = "a unit cannot name a path with a quote, a colon, a backslash or a control character"
        raise ConfigError(_OP, str(path), cause, "choose another name for it")
    return str(path).replace("%", "%%")
