"""Flags over environment over config.toml -> one frozen Config, with every bad key and value named.

Each key of the file has one reader in ``_KEYS``: a function that takes the raw value and returns what the
daemon works with, or says what would be allowed. Flags and variables go through the same readers, so a
value means the same wherever it was written, but for relative paths: in the file they are relative to the
file's folder, elsewhere to the working directory.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from streamer.caps.rules import METADATA, PROMPT, Cap
from streamer.dedup import DedupBy
from streamer.errors import ConfigError
from streamer.join import JoinRule
from streamer.listen import Address, parse_address
from streamer.lock import lock_file
from streamer.near.rules import Near, Scope
from streamer.parts import RetainRules, RollRules
from streamer.qualify import Images, RecordRules
from streamer.secret import NO_SECRET, Secret, read_secret
from streamer.sources.server import server_of, split_token, without_secrets
from streamer.text import printable
from streamer.turns import DEFAULT_REWARD_TYPE, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[object, Path], Any]
    """(raw value, folder that a relative path starts from) -> value; raises _UnfitError."""

DEFAULT_DATASET = "high_reward.jsonl"
"""The dataset if nothing names one, in the working directory."""

DEFAULT_WHERE = "total_reward > 0"

TOKEN_CREDENTIAL = "turso-auth-token"  # noqa: S105 - its name
"""The systemd credential that holds the token for a server."""

_OP = "use the configuration"
_MIB = 1 << 20
_DAY = 86_400.0
_SHORTEST_TOKEN = 16


class LogLevel(StrEnum):
    """The least level of an event that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What a log line looks like. ``auto`` looks at where stderr goes."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"
    JOURNALD = "journald"


class From(StrEnum):
    """Where conversations are read. Outcomes always come from the trace database."""

    SHARDS = "shards"
    DATABASE = "database"
    BOTH = "both"


NO_SHARDS = Path(os.devnull)
"""Stands for the folder where none is read: no path leads below it."""


class Source(msgspec.Struct, frozen=True):
    """What is read: the shard folder and the trace database, as a path or a URL.

    ``pattern`` is matched with the name of a file, not with its folders. ``scan_interval`` and
    ``poll_interval`` are seconds between two looks at the folder and at the database. ``database_after`` are the
    seconds for which the shard of a rollout is waited for, before its conversation is taken from the database.
    ``token`` is what a server is shown; ``database`` does not hold it.
    """

    shards: Path
    database: str
    conversations: From = From.SHARDS
    database_after: float = 10.0
    pattern: str = "*.jsonl"
    follow_symlinks: bool = False
    force_polling: bool = False
    scan_interval: float = 5.0
    poll_interval: float = 0.1
    max_line_bytes: int = 64 * _MIB
    token: Secret = NO_SECRET

    @property
    def reads_shards(self) -> bool:
        """Say whether there is a shard folder to look at."""
        return self.conversations is not From.DATABASE


class Join(msgspec.Struct, frozen=True):
    """How a record finds its outcome, and after how many seconds of waiting it counts as never scored."""

    rule: JoinRule = JoinRule.AS_OF
    never_scored_after: float = _DAY


class Qualify(msgspec.Struct, frozen=True):
    """The SQL condition that an outcome has to meet."""

    where: str = DEFAULT_WHERE


class Dedup(msgspec.Struct, frozen=True):
    """What makes two records the same one."""

    by: DedupBy = DedupBy.CONVERSATION


class Dataset(msgspec.Struct, frozen=True):
    """The file that the records are appended to, and the ledger that belongs to it."""

    path: Path
    ledger: Path


class Batch(msgspec.Struct, frozen=True):
    """A batch is committed when it holds so many records, or is so many milliseconds old."""

    records: int = 2000
    milliseconds: int = 50


class Log(msgspec.Struct, frozen=True):
    """What is logged, and in which format."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


class Web(msgspec.Struct, frozen=True):
    """Where the page is served; not at all where ``listen`` is None. ``token`` is what it is opened with, if any."""

    listen: Address | None = None
    token_file: Path | None = None
    token: Secret = NO_SECRET


class Config(msgspec.Struct, frozen=True):
    """All settings of one daemon. Each attribute is a table of config.toml; ``cap`` is any number of them."""

    source: Source
    dataset: Dataset
    join: Join = Join()
    qualify: Qualify = Qualify()
    records: RecordRules = RecordRules()
    dedup: Dedup = Dedup()
    roll: RollRules = RollRules()
    retain: RetainRules = RetainRules()
    near: Near = Near()
    cap: tuple[Cap, ...] = ()
    batch: Batch = Batch()
    log: Log = Log()
    web: Web = Web()


class Flags(msgspec.Struct, frozen=True):
    """What the command line said; None where it said nothing."""

    shards: str | None = None
    database: str | None = None
    dataset: str | None = None
    where: str | None = None


def load(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> Config:
    """Return the configuration of a daemon.

    Args:
        config_file: the value of ``--config``; without it ``STREAMER_CONFIG`` is used, if it is set.
        environ: the environment; an empty variable counts as unset.
        flags: they override the environment, which overrides the file.

    Raises:
        ConfigError: the file cannot be read, or any setting is bad or missing. All of them are named.
    """
    settings = _gather(config_file, environ, flags)
    if settings.get("source.conversations") is not From.DATABASE:
        settings.require("source.shards")
    settings.require("source.database")
    settings.check_together()
    settings.complain()
    tables = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name in _KEYS}
    config = Config(cap=settings.caps, **{name: table(**settings.table(name)) for name, table in tables.items()})
    return msgspec.structs.replace(
        config, source=_without_token(config.source, environ), web=_with_token(config.web, environ)
    )


def _without_token(source: Source, environ: Mapping[str, str]) -> Source:
    """Return the source with the token taken out of the URL, or from the environment if there is none."""
    database, token = split_token(source.database)
    return msgspec.structs.replace(source, database=database, token=token or token_of(environ))


def _with_token(web: Web, environ: Mapping[str, str]) -> Web:
    """Return the settings of the page with its token: of the file, else of systemd's credential.

    Raises:
        ConfigError: the token cannot be read, or is none; or there is none, and others than this machine could look.
    """
    if web.listen is None:
        return web
    file = web.token_file or _credential(environ)
    token = read_secret("read the token of the page", file, _SHORTEST_TOKEN) if file is not None else NO_SECRET
    if not token and not web.listen.is_loopback:
        raise ConfigError(
            _OP,
            "web.listen",
            f"{web.listen} can be reached from other machines, and no token is set",
            "listen on 127.0.0.1, or make a token: (umask 077; openssl rand -hex 32 > FILE) and web.token_file = FILE",
        )
    return msgspec.structs.replace(web, token=token)


def _credential(environ: Mapping[str, str]) -> Path | None:
    """Return the file in which systemd hands over the token (LoadCredential=web-token:FILE), if it does."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    file = Path(folder) / "web-token" if folder else None
    return file if file is not None and file.exists() else None


def token_of(environ: Mapping[str, str]) -> Secret:
    """Return the token for the trace database's server: TURSO_AUTH_TOKEN, or the credential of the service.

    Raises:
        ConfigError: the service manager has a credential, but it cannot be read.
    """
    token, folder = environ.get("TURSO_AUTH_TOKEN", ""), environ.get("CREDENTIALS_DIRECTORY", "")
    if token or not folder:
        return Secret(token)
    file = Path(folder, TOKEN_CREDENTIAL)
    try:
        return Secret(file.read_text(encoding="utf-8").strip())
    except (FileNotFoundError, PermissionError):  # what is run after a stop, systemd names the folder and shows nothing
        return NO_SECRET
    except (OSError, UnicodeDecodeError) as error:
        hint = "see LoadCredential= in the unit"
        raise ConfigError("read the token", printable(str(file)), str(error), hint) from None


def duration(text: str, origin: str) -> float:
    """Return the seconds of a duration such as "10m"; ``origin`` is where it was written.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float(_seconds(_number_or_text(text), Path()))
    except _UnfitError as unfit:
        raise ConfigError("take the duration", origin, f"{shown_value(text)} is not {unfit}") from None


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def dataset(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> Dataset:
    """Return the dataset and its ledger, for commands that need neither shards nor a trace database.

    A ledger that the file names belongs to the path that the file names: a flag or variable that names
    another dataset gets the ledger beside that one.

    Raises:
        ConfigError: as :func:`load` does, but for shards and a database that are not configured.
    """
    settings = _gather(config_file, environ, Flags(dataset=dataset_flag))
    settings.check_together()
    settings.complain()
    return Dataset(**settings.table("dataset"))


def dataset_path(config_file: Path | None, environ: Mapping[str, str], dataset_flag: str | None) -> Path:
    """Return the path of :func:`dataset`."""
    return dataset(config_file, environ, dataset_flag).path


def changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the dotted keys that differ: (those that take effect at run time, those that cannot)."""
    before, after = _flat(old), _flat(new)
    different = [key for key in before if before[key] != after[key]]
    return [key for key in different if _is_live(key)], [key for key in different if not _is_live(key)]


def reloaded(old: Config, new: Config) -> Config:
    """Return ``new``, but for the keys that cannot change at run time: they stay as in ``old``."""
    log = Log(level=new.log.level, format=old.log.format)
    fixed = {name: getattr(old, name) for name in ("source", "dataset", "dedup", "near", "roll", "web")}
    return msgspec.structs.replace(new, log=log, **fixed)


def _is_live(key: str) -> bool:
    return key.partition(".")[0] in {"join", "qualify", "records", "cap", "retain", "batch"} or key == "log.level"


def _flat(config: Config) -> dict[str, Any]:
    """Return all values by dotted key."""
    flat: dict[str, Any] = {}
    for name, table in msgspec.structs.asdict(config).items():
        if name == "cap":
            flat[name] = table
            continue
        flat |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(table).items()}
    return flat


# ---- Readers: one raw value -> the value that the daemon works with -------------------------------------


class _UnfitError(Exception):
    """A value that cannot be taken; the argument says what could be, as a noun phrase."""


def _boolean(raw: object, _folder: Path) -> bool:
    if isinstance(raw, bool):
        return raw
    raise _UnfitError("true or false")


def _text(raw: object, allowed: str) -> str:
    """Return a text that is not blank and that the operating system and SQLite can take."""
    if isinstance(raw, str) and raw.strip() and "\0" not in raw:
        return raw
    raise _UnfitError(allowed)


def _path(raw: object, folder: Path) -> Path:
    return folder / os.path.expanduser(_text(raw, "a path"))


def _file(raw: object, folder: Path) -> Path:
    path = _path(raw, folder)
    if path.name in ("", "..") or str(raw).endswith("/"):
        raise _UnfitError("a path to a file")
    return path


def _database(raw: object, folder: Path) -> str:
    text = _text(raw, "the path or the URL of a trace database")
    try:
        server_of(text)
    except ConfigError as error:
        raise _UnfitError(f"a server that can be read: {error.cause} ({error.hint})") from None
    return text if "://" in text or text.startswith("file:") else str(_path(text, folder))


def _pattern(raw: object, _folder: Path) -> str:
    allowed = 'a pattern for file names such as "*.jsonl", without "/": sub-folders are always searched'
    text = _text(raw, allowed)
    if "/" in text:
        raise _UnfitError(allowed)
    return text


def _where(raw: object, _folder: Path) -> str:
    allowed = f'an SQL condition such as "{DEFAULT_WHERE}", in UTF-8 and without NUL'
    text = _text(raw, allowed).strip()
    # An undecodable byte of the environment is a lone surrogate here, and SQLite takes none.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _UnfitError(allowed)
    return text


def _models(raw: object, _folder: Path) -> tuple[str, ...]:
    allowed = 'a list of model names such as ["gpt-5-nano"]'
    if not isinstance(raw, list):
        raise _UnfitError(allowed)
    return tuple(_text(item, allowed) for item in raw)


def _reward_type(raw: object, _folder: Path) -> str:
    allowed = f'a reward_type of event_rewards such as "{DEFAULT_REWARD_TYPE}"'
    text = _text(raw, allowed)
    if not text.isprintable():
        raise _UnfitError(allowed)
    return text


def _reward(raw: object, _folder: Path) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool) and -_LARGEST <= raw <= _LARGEST:
        return float(raw)
    raise _UnfitError("a number such as 1 or 0.5")


def _address(raw: object, _folder: Path) -> Address:
    address = parse_address(raw) if isinstance(raw, str) else None
    if address is None:
        raise _UnfitError('an address such as "127.0.0.1:8765", "[::1]:8765" or "localhost:8765"')
    return address


def _whole(low: int, high: int) -> Reader:
    def read(raw: object, _folder: Path) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool) and low <= raw <= high:
            return raw
        raise _UnfitError(f"a whole number from {low} to {high}")

    return read


def _share(low: float) -> Reader:
    def read(raw: object, _folder: Path) -> float:
        if isinstance(raw, int | float) and not isinstance(raw, bool) and low <= raw <= 1:
            return float(raw)
        raise _UnfitError(f"a number from {low} to 1")

    return read


def _counted_by(raw: object, _folder: Path) -> str:
    allowed = '"prompt", "run_id", or a key of the metadata such as "metadata.env_seed"'
    by = _text(raw, allowed)
    if by in (PROMPT, "run_id") or (by.startswith(METADATA) and by != METADATA and by.isprintable()):
        return by
    raise _UnfitError(allowed)


def _one_of(choices: type[StrEnum]) -> Reader:
    def read(raw: object, _folder: Path) -> StrEnum:
        if isinstance(raw, str) and raw in tuple(choices):
            return choices(raw)
        raise _UnfitError("one of " + ", ".join(f'"{choice}"' for choice in choices))

    return read


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY}
_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": _MIB, "gib": 1 << 30}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", re.ASCII)
_SHORTEST, _LONGEST = 0.001, 3650 * _DAY
_LARGEST = 1 << 40


def _seconds(raw: object, _folder: Path) -> float:
    amount = _quantity(raw, _SECONDS)
    if amount is not None and _SHORTEST <= amount <= _LONGEST:
        return float(amount)
    raise _UnfitError('a number of seconds, or a duration such as "250ms", "5s", "10m", "24h", up to "3650d"')


def _size(raw: object, _folder: Path) -> int:
    amount = _quantity(raw.lower() if isinstance(raw, str) else raw, _BYTES)
    if amount is not None and 1 <= amount <= _LARGEST and amount == int(amount):
        return int(amount)
    raise _UnfitError('a whole number of bytes, or a size such as "10MB", "64MiB", "1GiB", up to "1024GiB"')


def _quantity(raw: object, units: Mapping[str, float]) -> float | None:
    """Return a number as it is, and a text such as "5s" in the base unit; None if it is neither.

    NaN and infinity pass; they fail the comparison with the bounds.
    """
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return raw
    match = _QUANTITY.fullmatch(raw) if isinstance(raw, str) else None
    return float(match[1]) * units[match[2]] if match and match[2] in units else None


_KEYS: dict[str, dict[str, Reader]] = {
    "source": {
        "shards": _path,
        "pattern": _pattern,
        "database": _database,
        "conversations": _one_of(From),
        "database_after": _seconds,
        "follow_symlinks": _boolean,
        "force_polling": _boolean,
        "scan_interval": _seconds,
        "poll_interval": _seconds,
        "max_line_bytes": _size,
    },
    "join": {"rule": _one_of(JoinRule), "never_scored_after": _seconds},
    "qualify": {"where": _where},
    "records": {
        "models": _models,
        "images": _one_of(Images),
        "min_turn": _whole(0, 1 << 53),
        "max_turn": _whole(0, 1 << 53),
        "turns": _one_of(Turns),
        "reward_type": _reward_type,
        "min_turn_reward": _reward,
    },
    "dedup": {"by": _one_of(DedupBy)},
    "near": {
        "threshold": _share(0.5),
        "ngram": _whole(1, 100),
        "scope": _one_of(Scope),
        "images": _whole(0, 32),
        "keep": _whole(1, 10_000_000),
    },
    "dataset": {"path": _file, "ledger": _file},
    "roll": {"bytes": _size, "records": _whole(1, 1 << 53), "age": _seconds},
    "retain": {"bytes": _size, "records": _whole(1, 1 << 53), "age": _seconds, "forget_keys": _boolean},
    "batch": {"records": _whole(1, 1_000_000), "milliseconds": _whole(1, 60_000)},
    "log": {"level": _one_of(LogLevel), "format": _one_of(LogFormat)},
    "web": {"listen": _address, "token_file": _file},
}
_DOTTED = {f"{table}.{key}": reader for table, keys in _KEYS.items() for key, reader in keys.items()}
_CAP: dict[str, Reader] = {"by": _counted_by, "most": _whole(1, 1 << 53)}
"""The keys of each table [[cap]]; all of them are needed."""

_VARIABLES = {
    "source.shards": ("TASKAPP_SFT_OUTPUT_DIR", "SFT_OUTPUT_DIR"),
    "source.database": ("TURSO_LOCAL_DB_URL", "SQLD_DB_PATH", "TASKAPP_TRACE_DB_PATH"),
    "dataset.path": ("STREAMER_DATASET",),
    "qualify.where": ("STREAMER_WHERE",),
}
"""The first variable that is set counts. The ones of shards and database are the producer's own."""


# ---- The three layers, and all that is wrong with them ---------------------------------------------------


class _Problem(NamedTuple):
    """One thing to put right: where it stands (file and key, variable, flag), what is wrong, what helps."""

    where: str
    cause: str
    hint: str = ""


class _Settings:
    """Values by dotted key, a later layer over an earlier one, and what is wrong with any of them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._problems: list[_Problem] = []
        self.caps: tuple[Cap, ...] = ()

    def take(self, key: str, raw: object, origin: str, folder: Path) -> None:
        """Read one value over what an earlier layer said; ``origin`` is what the user would look for."""
        self._origins[key] = origin
        try:
            value = _DOTTED[key](raw, folder)
        except _UnfitError as unfit:
            shown = without_secrets(raw) if key == "source.database" and isinstance(raw, str) else raw
            self.reject(_Problem(origin, f"{shown_value(shown)} is not {unfit}"))
            return
        if key == "dataset.path" and key in self._values and real_path(self._values[key]) != real_path(value):
            # The ledger that the file names is the one of the dataset that the file names.
            self._values.pop("dataset.ledger", None)
        self._values[key] = value

    def take_cap(self, table: dict[str, object], origin: str, folder: Path) -> None:
        """Read one table [[cap]]; ``origin`` is what the user would look for."""
        values: dict[str, Any] = {}
        for key in _CAP.keys() - table.keys():
            self.reject(_Problem(f"{origin}.{key}", "it is not configured", "a cap needs `by` and `most`"))
        for key, raw in table.items():
            where = f"{origin}.{printable(key)}"
            try:
                values[key] = _CAP[key](raw, folder)
            except KeyError:
                self.reject(_Problem(where, *_unknown(key, list(_CAP))))
            except _UnfitError as unfit:
                self.reject(_Problem(where, f"{shown_value(raw)} is not {unfit}"))
        if values.keys() != _CAP.keys():
            return
        if any(cap.by == values["by"] for cap in self.caps):
            self.reject(_Problem(f"{origin}.by", f"{shown_value(values['by'])} has a cap already"))
        self.caps += (Cap(**values),)

    def reject(self, problem: _Problem) -> None:
        """Remember something to put right."""
        self._problems.append(problem)

    def get(self, key: str) -> Any:
        """Return the value of a key, None if no layer has named a good one."""
        return self._values.get(key)

    def require(self, *keys: str) -> None:
        """Reject keys that no layer has named."""
        for key in keys:
            if key not in self._origins:
                self.reject(_Problem(key, "it is not configured", _ways_to_set(key)))

    def check_together(self) -> None:
        """Reject values that are fine alone, but not together."""
        target = Dataset(**self.table("dataset"))
        self._check_turns(**self.table("records"))
        self._check_turn_rewards(**self.table("records"))
        self._check_ledger(target)
        if self.get("source.conversations") is From.BOTH and self.get("dedup.by") is DedupBy.NONE:
            cause = 'it cannot be "none" where source.conversations is "both"'
            hint = "shard and database tell the time of a record differently, so it would be taken from each of them"
            self.reject(_Problem(self._origins["dedup.by"], cause, hint))

    def _check_turns(self, min_turn: int = 0, max_turn: int | None = None, **_: object) -> None:
        if max_turn is not None and min_turn > max_turn:
            origin = self._origins["records.min_turn"]
            self.reject(_Problem(origin, f"{min_turn} is above max_turn, which is {max_turn}"))

    def _check_turn_rewards(self, turns: Turns = Turns.ALL, min_turn_reward: float | None = None, **_: object) -> None:
        if turns is Turns.ALL and min_turn_reward is not None:
            hint = f'set records.turns to "{Turns.REWARDED}" or "{Turns.UNTIL_LAST_REWARD}"'
            cause = 'it has nothing to say where records.turns is "all"'
            self.reject(_Problem(self._origins["records.min_turn_reward"], cause, hint))

    def _check_ledger(self, dataset: Dataset) -> None:
        if real_path(dataset.ledger) in (real_path(dataset.path), lock_file(dataset.path)):
            cause = f"{shown_value(str(dataset.ledger))} is the dataset itself, or its lock"
            self.reject(_Problem(self._origins["dataset.ledger"], cause))

    def complain(self) -> None:
        """Raise one ConfigError for all that was rejected."""
        if not self._problems:
            return
        if len(self._problems) == 1:
            raise ConfigError(_OP, *self._problems[0])
        lines = ["each has to be put right"]
        lines += [f"{where}: {cause}{hint and f' ({hint})'}" for where, cause, hint in self._problems]
        raise ConfigError(_OP, f"{len(self._problems)} problems", "\n  ".join(lines))

    def table(self, name: str) -> dict[str, Any]:
        """Return the values of one table that were set; for the dataset, the defaults too."""
        prefix = f"{name}."
        table = {key.removeprefix(prefix): v for key, v in self._values.items() if key.startswith(prefix)}
        if name == "source":
            table.setdefault("shards", NO_SHARDS)
        if name == "dataset":
            path = table.setdefault("path", Path(DEFAULT_DATASET))
            table.setdefault("ledger", path.with_name(f"{path.name}.ledger"))
        return table


def _gather(config_file: Path | None, environ: Mapping[str, str], flags: Flags) -> _Settings:
    settings = _Settings()
    file = _config_file(config_file, environ)
    if file is not None:
        _take_file(settings, file)
    for key, variables in _VARIABLES.items():
        flag = _flag(key)
        text = getattr(flags, flag)
        set_one = next((name for name in variables if environ.get(name)), None)
        if text is not None:
            settings.take(key, text, f"--{flag}", Path())
        elif set_one is not None:
            settings.take(key, environ[set_one], set_one, Path())
    return settings


def _config_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = str(config_file) if config_file is not None else environ.get("STREAMER_CONFIG")
    return _path(named, Path()) if named else None


def _flag(key: str) -> str:
    """Return the flag's name, without dashes, of one of the keys of ``_VARIABLES``."""
    table, _, name = key.partition(".")
    return table if table == "dataset" else name


def _ways_to_set(key: str) -> str:
    variables = " or ".join(_VARIABLES[key])
    table, _, name = key.partition(".")
    return f"give --{_flag(key)}, set {variables}, or write {name} under [{table}] in config.toml"


def _take_file(settings: _Settings, file: Path) -> None:
    shown = printable(str(file))
    for name, table in parse_file(file).items():
        if name == "cap":
            _take_caps(settings, table, file)
        elif name not in _KEYS:
            settings.reject(_Problem(f"{shown}: {printable(name)}", *_unknown(name, [*_KEYS, "cap"])))
        elif not isinstance(table, dict):
            settings.reject(_Problem(f"{shown}: {name}", f"{shown_value(table)} is not a table", f"write [{name}]"))
        else:
            _take_table(settings, name, table, file)


def _take_caps(settings: _Settings, tables: object, file: Path) -> None:
    shown = printable(str(file))
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        settings.reject(_Problem(f"{shown}: cap", f"{shown_value(tables)} is not a list of tables", "write [[cap]]"))
        return
    for number, table in enumerate(tables, 1):
        settings.take_cap(table, f"{shown}: cap {number}", file.parent)


def _take_table(settings: _Settings, name: str, table: dict[str, object], file: Path) -> None:
    shown = printable(str(file))
    for key, raw in table.items():
        where = f"{shown}: {name}.{printable(key)}"
        if key in _KEYS[name]:
            settings.take(f"{name}.{key}", raw, where, file.parent)
        else:
            settings.reject(_Problem(where, *_unknown(key, list(_KEYS[name]))))


def _unknown(name: str, siblings: list[str]) -> tuple[str, str]:
    """Return (cause, hint) for a key that no one reads, with the key that was probably meant."""
    elsewhere = [dotted for dotted in _DOTTED if dotted.endswith(f".{name}")]
    near = difflib.get_close_matches(name, siblings, n=1) or elsewhere
    meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(siblings)}"
    return "there is no such key", meant


def parse_file(file: Path) -> dict[str, object]:
    """Return what a TOML file holds.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        _refuse(file, "there is no such file", "name another one with --config or STREAMER_CONFIG")
    except OSError as error:
        _refuse(file, error.strerror or str(error))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        _refuse(file, f"it is not UTF-8 (at line {line})")
    except ValueError as error:
        # Mostly TOMLDecodeError, which names line and column; tomllib lets a few plain ones through.
        _refuse(file, f"it is not TOML: {printable(str(error))}")
    except RecursionError:
        _refuse(file, "it is not TOML that anyone would write: it is nested too deeply")


def _refuse(file: Path, cause: str, hint: str = "") -> NoReturn:
    raise ConfigError("read the configuration", printable(str(file)), cause, hint) from None


def real_path(path: Path) -> Path:
    """Return the path with its links followed, as far as they lead anywhere."""
    # Path.resolve raises for links that go in a circle; whoever opens the file can say that better.
    return Path(os.path.realpath(path))


_LONGEST_SHOWN = 60
_LONG_NUMBER = 1 << 64


def shown_value(raw: object) -> str:
    """Return a raw value much as the user wrote it, on one line and not too long."""
    if isinstance(raw, list | dict):
        return "a list" if isinstance(raw, list) else "a table"
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, int) and abs(raw) > _LONG_NUMBER:
        # Python refuses to write a number of some thousand digits.
        return "a very long number"
    text = str(raw)
    text = printable(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
    return f'"{text}"' if isinstance(raw, str) else text
