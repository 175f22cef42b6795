"""The merged values of all layers, and all configuration errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from streamer.base.errors import ConfigError
from streamer.base.lock import lock_file
from streamer.base.text import printable
from streamer.config.database_url import without_secrets
from streamer.config.fleet_table import SinkKind, SourceKind
from streamer.config.keys import CAP, DOTTED, unknown, ways_to_set
from streamer.config.tables import DEFAULT_DATASET, NO_SHARDS, Dataset, From
from streamer.config.values import BadValueError, real_path, shown_value
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.turns import Turns

OP = "use the configuration"


class DatasetEntry(NamedTuple):
    """One table [[dataset]]: its raw values, its place for messages, and the folder of its relative paths."""

    table: dict[str, object]
    place: str
    folder: Path


class Problem(NamedTuple):
    """One configuration error: its place (file and key, variable or flag), its cause, and a hint."""

    where: str
    cause: str
    hint: str = ""


class Settings:
    """Values by dotted key, with later layers over earlier ones, and the configuration errors.

    ``entries`` are the unparsed tables [[dataset]]. ``others`` are the other configured datasets.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._problems: list[Problem] = []
        self._own: set[str] = set()
        self.caps: tuple[Cap, ...] = ()
        self.entries: list[DatasetEntry] = []
        self.others: tuple[Dataset, ...] = ()

    def for_entry(self) -> Settings:
        """Return a copy for one of several datasets; copies share the list of errors."""
        settings = Settings()
        settings._values, settings._origins = dict(self._values), dict(self._origins)
        settings._problems, settings.caps = self._problems, self.caps
        return settings

    def take(self, key: str, raw: object, origin: str, folder: Path) -> None:
        """Parse a value, and override earlier layers; ``origin`` names its place for messages."""
        self._origins[key] = origin
        self._own.add(key)
        value = self.read(key, raw, origin, folder)
        if value is None:
            return
        if key == "dataset.path" and key in self._values and real_path(self._values[key]) != real_path(value):
            # A ledger in the file belongs to the dataset in the file.
            self._values.pop("dataset.ledger", None)
        self._values[key] = value

    def read(self, key: str, raw: object, origin: str, folder: Path) -> Any:
        """Parse a raw value; None if it is rejected."""
        try:
            return DOTTED[key](raw, folder)
        except BadValueError as unfit:
            shown = without_secrets(raw) if key == "source.database" and isinstance(raw, str) else raw
            self.reject(Problem(origin, f"{shown_value(shown)} is not {unfit}"))
            return None

    def take_cap(self, table: dict[str, object], origin: str, folder: Path) -> None:
        """Parse one table [[cap]]; ``origin`` names its place for messages."""
        values: dict[str, Any] = {}
        for key in CAP.keys() - table.keys():
            self.reject(Problem(f"{origin}.{key}", "it is not configured", "a cap needs `by` and `most`"))
        for key, raw in table.items():
            where = f"{origin}.{printable(key)}"
            try:
                values[key] = CAP[key](raw, folder)
            except KeyError:
                self.reject(Problem(where, *unknown(key, list(CAP))))
            except BadValueError as unfit:
                self.reject(Problem(where, f"{shown_value(raw)} is not {unfit}"))
        if values.keys() != CAP.keys():
            return
        if any(cap.by == values["by"] for cap in self.caps):
            self.reject(Problem(f"{origin}.by", f"{shown_value(values['by'])} has a cap already"))
        self.caps += (Cap(**values),)

    def reject(self, problem: Problem) -> None:
        """Add a configuration error."""
        if problem not in self._problems:  # an error in a shared table is reported once
            self._problems.append(problem)

    def origin(self, key: str) -> str | None:
        """Return the place where a key was set, validly or not; None if it was not set."""
        return self._origins.get(key)

    def get(self, key: str) -> Any:
        """Return the value of a key; None if no layer has set a valid one."""
        return self._values.get(key)

    def require(self, *keys: str) -> None:
        """Reject keys that no layer has set."""
        for key in keys:
            if key not in self._origins:
                self.reject(Problem(key, "it is not configured", ways_to_set(key)))

    def check_together(self) -> None:
        """Reject combinations of valid values that contradict each other."""
        target = Dataset(**self.table("dataset"))
        self._check_turns(**self.table("records"))
        self._check_turn_rewards(**self.table("records"))
        self._check_ledger(target)
        if self.get("source.conversations") is From.BOTH and self.get("dedup.by") is DedupBy.NONE:
            cause = 'it cannot be "none" where source.conversations is "both"'
            hint = "shard and database tell the time of a record differently, so it would be taken from each of them"
            self.reject(Problem(self._origins["dedup.by"], cause, hint))
        self._check_fleet()

    @property
    def uses_fleet(self) -> bool:
        """Whether records are sent to a fleet, or received from one."""
        return self.get("source.kind") is SourceKind.JETSTREAM or self.get("sink.kind") is SinkKind.JETSTREAM

    def _check_fleet(self) -> None:
        if self.get("source.kind") is SourceKind.JETSTREAM and self.get("sink.kind") is SinkKind.JETSTREAM:
            hint = "a writer's dataset is where records arrive"
            self.reject(Problem(self._origins["sink.kind"], 'source.kind is "jetstream", too', hint))
        if self.get("source.buckets") is not None and self.get("source.kind") is not SourceKind.JETSTREAM:
            hint = 'set source.kind = "jetstream", or leave it out'
            self.reject(Problem(self._origins["source.buckets"], "there are buckets only in a fleet", hint))
        if self.get("fleet.tls_key") is not None and self.get("fleet.tls_cert") is None:
            self.reject(Problem(self._origins["fleet.tls_key"], "there is no fleet.tls_cert that it belongs to"))

    def _set_last(self, key: str, other: str) -> str:
        """Return the place of a key; or that of the other key, if only that was set for this dataset itself."""
        return self._origins[other if other in self._own and key not in self._own else key]

    def _check_turns(self, min_turn: int = 0, max_turn: int | None = None, **_: object) -> None:
        if max_turn is not None and min_turn > max_turn:
            origin = self._set_last("records.min_turn", "records.max_turn")
            cause = f"{min_turn} is above max_turn, which is {max_turn}"
            if origin != self._origins["records.min_turn"]:
                cause = f"{max_turn} is below min_turn, which is {min_turn}"
            self.reject(Problem(origin, cause))

    def _check_turn_rewards(self, turns: Turns = Turns.ALL, min_turn_reward: float | None = None, **_: object) -> None:
        if turns is Turns.ALL and min_turn_reward is not None:
            hint = f'set records.turns to "{Turns.REWARDED}" or "{Turns.UNTIL_LAST_REWARD}"'
            cause = 'it has nothing to say where records.turns is "all"'
            self.reject(Problem(self._set_last("records.min_turn_reward", "records.turns"), cause, hint))

    def _check_ledger(self, dataset: Dataset) -> None:
        if real_path(dataset.ledger) in (real_path(dataset.path), lock_file(dataset.path)):
            cause = f"{shown_value(str(dataset.ledger))} is the dataset itself, or its lock"
            self.reject(Problem(self._origins["dataset.ledger"], cause))

    def complain(self) -> None:
        """Raise one ConfigError for all configuration errors, if there are any."""
        if not self._problems:
            return
        if len(self._problems) == 1:
            raise ConfigError(OP, *self._problems[0])
        lines = ["each has to be put right"]
        lines += [f"{where}: {cause}{hint and f' ({hint})'}" for where, cause, hint in self._problems]
        raise ConfigError(OP, f"{len(self._problems)} problems", "\n  ".join(lines))

    def table(self, name: str) -> dict[str, Any]:
        """Return the values of one table that were set; required ones of source and dataset get defaults."""
        prefix = f"{name}."
        table = {key.removeprefix(prefix): v for key, v in self._values.items() if key.startswith(prefix)}
        if name == "source":
            table.setdefault("shards", NO_SHARDS)
            table.setdefault("database", "")
        if name == "dataset":
            path = table.setdefault("path", Path(DEFAULT_DATASET))
            table.setdefault("ledger", path.with_name(f"{path.name}.ledger"))
        return table
