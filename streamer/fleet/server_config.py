"""Configuration files for a fleet's servers: a cluster with TLS, one account, and a user for each host.

::

    DIR/ca.pem, ca.key                     the authority that signs the certificates; its key stays here
    DIR/servers/<host>/                    files of a server: nats-server.conf, ca.pem, server.pem, server.key
    DIR/collectors/<host>/                 files of a collector: fleet.nk, ca.pem
    DIR/writers/<host>/, DIR/admin/        the same

Existing keys and certificates are kept, so that the command can be run again after a host was added or a server has
moved; configurations are written anew.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from streamer.base.append_file import write_all
from streamer.base.errors import ConfigError, MissingExtraError, RefusedError, UnavailableError
from streamer.base.files import sync_folder
from streamer.config.fleet_names import host_name
from streamer.fleet.connection import INSTALL
from streamer.fleet.permissions import Permissions, Role, inbox_of, permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamer.base.files import Files
    from streamer.config.fleet_names import Names

CLIENTS, MONITORING, _ROUTES = 4222, 8222, 6222
"""The usual ports: clients, monitoring, and routes between servers."""

_MOST_PAYLOAD = 8 << 20
"""``max_payload`` of the servers: the maximum that NATS recommends, in bytes."""

_OP = "write configurations of servers"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_SEED = 32

_TEXT = """\
# Written by `streamer fleet init --server-config`, and written anew by the next one.
server_name: {name}
listen: {listen}
client_advertise: {advertise}
https: {monitoring}    # `streamer` asks here whether what is acknowledged was synced
max_payload: {payload}

tls {{
  cert_file: {cert}
  key_file: {key}
  timeout: 5
}}

jetstream {{
  store_dir: {store}
  sync_interval: always    # nothing is acknowledged that a loss of power could take back
}}

cluster {{
  name: {cluster}
  listen: {cluster_listen}
  cluster_advertise: {cluster_advertise}
  routes: {routes}
  tls {{
    cert_file: {cert}
    key_file: {key}
    ca_file: {ca}
    verify: true
    timeout: 5
  }}
}}

accounts {{
  SYS {{
    users: []
  }}
  {account} {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
}}
system_account: SYS
"""


class ServerPlan(msgspec.Struct, frozen=True):
    """Hosts of a fleet, and folders on its servers."""

    servers: tuple[str, ...]
    collectors: tuple[str, ...]
    writers: tuple[str, ...]
    etc: str = "/etc/nats"
    data: str = "/var/lib/nats"


class _User(NamedTuple):
    """A user of the fleet's account, with its public key."""

    role: Role
    name: str
    public: str


def write(folder: Path, plan: ServerPlan, names: Names, files: Files, now: float) -> list[Path]:
    """Write all files below ``folder``, and return those that changed.

    Args:
        folder: Where to write; created if it does not exist.
        plan: The hosts.
        names: Names of the fleet.
        files: The system calls.
        now: Seconds since 1970, for certificates.

    Raises:
        ConfigError: The name of a host is invalid, or used twice.
        MissingExtraError: The packages for keys and certificates are not installed.
        UnavailableError: A file cannot be read or written.
        RefusedError: The existing authority is invalid.
    """
    _check(plan)
    root = _Folder(folder, files)
    users = _users(root, plan)
    authority = _certificates(root, plan, names, now)
    for host in plan.servers:
        root.put(f"servers/{host}/nats-server.conf", _server(host, plan, names, users).encode())
    for holder in (*(f"servers/{host}" for host in plan.servers), *map(_folder, users)):
        root.put(f"{holder}/ca.pem", authority)
    return root.written


def _check(plan: ServerPlan) -> None:
    for what, hosts in (("servers", plan.servers), ("collectors", plan.collectors), ("writers", plan.writers)):
        if not hosts:
            raise ConfigError(_OP, what, "there is none", f"name them: --{what} a,b,c")
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(_OP, what, f"{host!a} is no name of a host", "letters, digits, dots and hyphens")
        if len({host_name(host) for host in hosts}) < len(hosts):
            raise ConfigError(_OP, what, "two of them have the same name", "name each host once")


class _Folder:
    """The output folder: each file is replaced atomically, and readable by its owner and group only."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files
        self.written: list[Path] = []

    def kept(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(_OP, str(path), error.strerror or str(error), "see its rights") from error

    def put(self, name: str, data: bytes) -> bytes:
        """Write a file unless it holds these data already; return the data."""
        path = self._folder / name
        if self.kept(name) == data:
            return data
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            new = path.with_name(f"{path.name}.new")
            self._files.unlink(new)
            fd = self._files.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                write_all(self._files, fd, data)
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
            self._files.rename(new, path)
            sync_folder(self._files, path.parent)
        except OSError as error:
            raise UnavailableError(_OP, str(path), error.strerror or str(error), "see its rights") from error
        self.written.append(path)
        return data

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return the content of a file, which is created if it does not exist."""
        kept = self.kept(name)
        return self.put(name, make()) if kept is None else kept


# ---- users --------------------------------------------------------------------------------------------------


def _who(plan: ServerPlan) -> Iterator[tuple[Role, str]]:
    yield from ((Role.COLLECTOR, host_name(host)) for host in plan.collectors)
    yield from ((Role.WRITER, host_name(host)) for host in plan.writers)
    yield Role.ADMIN, ""


def _folder(user: _User) -> str:
    return f"{user.role}s/{user.name}" if user.name else str(user.role)


def _users(root: _Folder, plan: ServerPlan) -> list[_User]:
    try:
        import nkeys  # noqa: PLC0415 - an extra
    except ImportError:
        raise _missing("nkeys") from None

    def new_seed() -> bytes:
        return bytes(nkeys.encode_seed(os.urandom(_SEED), nkeys.PREFIX_BYTE_USER)) + b"\n"

    found = []
    for role, name in _who(plan):
        user = _User(role, name, "")
        where = f"{_folder(user)}/fleet.nk"
        seed = root.once(where, new_seed)
        try:
            public = nkeys.from_seed(seed.strip()).public_key.decode("ascii")
        except (nkeys.NkeysError, ValueError) as error:
            raise ConfigError(_OP, where, f"it holds no nkey: {error!r}", "move it away to get another one") from None
        found.append(user._replace(public=public))
    return found


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(_OP, package, "it is not installed", INSTALL)


# ---- certificates -------------------------------------------------------------------------------------------


def _certificates(root: _Folder, plan: ServerPlan, names: Names, now: float) -> bytes:
    """Create missing certificates; return that of the authority."""
    try:
        from streamer.fleet import certificates  # noqa: PLC0415 - needs an extra
    except ImportError:
        raise _missing("cryptography") from None
    missing = [host for host in plan.servers if not all(map(root.kept, _pair_files(host)))]
    certificate, key = root.kept("ca.pem"), root.kept("ca.key")
    if certificate is None:
        certificate, key = authority = certificates.make_authority(f"{names.stream} fleet", now)
        root.put("ca.key", authority.key)
        root.put("ca.pem", authority.certificate)
        missing = list(plan.servers)  # certificates signed by another authority are worthless now
    if missing and key is None:
        hint = "put it back for this, or move ca.pem away, too, to begin with another authority"
        raise RefusedError(_OP, "ca.key", f"it is missing, and {missing[0]} needs a certificate", hint)
    for host in missing:
        pair = certificates.make_certificate(certificates.Pair(certificate, key or b""), [host], now)
        for name, data in zip(_pair_files(host), pair, strict=True):
            root.put(name, data)
    return certificate


def _pair_files(host: str) -> tuple[str, str]:
    return f"servers/{host}/server.pem", f"servers/{host}/server.key"


# ---- nats-server.conf ---------------------------------------------------------------------------------------


def _server(host: str, plan: ServerPlan, names: Names, users: Sequence[_User]) -> str:
    here = host if _is_address(host) else "0.0.0.0"  # noqa: S104 - a name may be that of another interface
    routes = [f"nats-route://{address(other, _ROUTES)}" for other in plan.servers]
    return _TEXT.format(
        name=json.dumps(host_name(host)),
        listen=json.dumps(address(here, CLIENTS)),
        advertise=json.dumps(address(host, CLIENTS)),
        monitoring=json.dumps(address(here, MONITORING)),
        payload=_MOST_PAYLOAD,
        cert=json.dumps(f"{plan.etc}/server.pem"),
        key=json.dumps(f"{plan.etc}/server.key"),
        ca=json.dumps(f"{plan.etc}/ca.pem"),
        store=json.dumps(plan.data),
        cluster=json.dumps(names.stream),
        cluster_listen=json.dumps(address(here, _ROUTES)),
        cluster_advertise=json.dumps(address(host, _ROUTES)),
        routes=json.dumps(routes),
        account=json.dumps(names.stream),
        users="\n".join(_user(user, names) for user in users),
    )


def _user(user: _User, names: Names) -> str:
    may = permissions(user.role, names, user.name, inbox_of(user.public))
    comment = f"{user.role} {user.name}".strip()
    return f"      {{ nkey: {user.public}, permissions: {_permissions(may)} }}    # {comment}"


def _permissions(may: Permissions) -> str:
    answers = ', "allow_responses": true' if may.answers else ""
    return f'{{ "publish": {json.dumps(may.publish)}, "subscribe": {json.dumps(may.subscribe)}{answers} }}'


def address(host: str, port: int) -> str:
    """Return a host and a port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
