"""One instance of the system service in the container: what it reads, what it wrote, and what systemd says of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces
from tests.suites.systemd.container import Container, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STREAMER = "/opt/streamer/bin/streamer"


class Instance:
    """A service with a producer's folder of its own.

    Args:
        container: where it runs.
        name: of the instance.
        folder: what the producer writes to, in the container.
    """

    def __init__(self, container: Container, name: str, folder: str = "") -> None:
        self.container = container
        self.name = name
        self.unit = f"streamer@{name}.service"
        self.folder = folder or f"/srv/{name}"
        self.config = f"/etc/streamer/{name}.toml"
        self.state = f"/var/lib/streamer/{name}"
        self.shards = container.path(f"{self.folder}/ft_data")
        self.traces = container.path(f"{self.folder}/traces.db")
        self.shards.mkdir(parents=True)
        make_traces(self.traces)
        add_outcome(self.traces, "good", 3, 10)
        add_outcome(self.traces, "bad", 0, 10)
        self._written = 0

    def configure(self, more: str = "") -> str:
        """Return a configuration for what the producer writes."""
        return f'[source]\nshards = "{self.folder}/ft_data"\ndatabase = "{self.folder}/traces.db"\n{more}\n'

    def install(self, more: str = "", drop_in: str = "") -> None:
        """Install the service, with a drop-in if one is given."""
        self.container.write(f"/root/{self.name}.toml", self.configure(more))
        command = (STREAMER, "install-service", "--system", "--name", self.name)
        self.container.run(*command, "--config", f"/root/{self.name}.toml")
        if drop_in:
            self.container.write(f"/etc/systemd/system/{self.unit}.d/test.conf", f"[Service]\n{drop_in}\n")
        self.container.run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start it, and see that it is ready."""
        self.container.run("systemctl", "start", self.unit)

    def stop(self) -> None:
        """Stop it."""
        self.container.run("systemctl", "stop", self.unit)

    def show(self, name: str) -> str:
        """Return what systemd says of one of its properties."""
        return self.container.run("systemctl", "show", "--value", "--property", name, self.unit).strip()

    @property
    def pid(self) -> str:
        """The process of the daemon; 0 if there is none."""
        return self.show("MainPID")

    def write(self, lines: int = 1, run: str = "good") -> None:
        """Let the producer write lines that are unlike all others."""
        numbers = range(self._written, self._written + lines)
        self._written += lines
        with (self.shards / f"{run}.jsonl").open("ab", buffering=0) as shard:
            shard.write(jsonl(*(dialogue(run, turn, f"line {turn}") for turn in numbers)))

    def texts(self) -> list[str]:
        """Return what the users of all records said, in order."""
        dataset = self.container.path(f"{self.state}/high_reward.jsonl")
        data = dataset.read_bytes() if dataset.exists() else b""
        return [json.loads(line)["messages"][1]["content"] for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def until_it_has_all(self) -> None:
        """Wait until every line that was written is a record, and see that each is one once."""
        wanted = [f"line {number}" for number in range(self._written)]
        until(lambda: len(self.texts()) >= len(wanted), f"{self.unit} has {len(wanted)} records")
        assert self.texts() == wanted

    def until_it(self, is_so: Callable[[Instance], object], what: str) -> None:
        """Wait for something to be so of this instance."""
        try:
            until(lambda: is_so(self), f"{self.unit} {what}")
        except AssertionError as error:
            error.add_note(self.container.call("systemctl", "status", "--no-pager", "--full", self.unit).stdout)
            raise

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return the entries of its journal that have these fields."""
        self.container.run("journalctl", "--sync")
        done = self.container.run("journalctl", "--output=json", "--unit", self.unit, *matches)
        return [json.loads(line) for line in done.splitlines()]

    def status(self) -> dict[str, Any]:
        """Return what ``streamer status`` says, after seeing that it adds up."""
        dataset = f"{self.state}/high_reward.jsonl"
        found: dict[str, Any] = json.loads(self.container.run(STREAMER, "status", "--dataset", dataset, "--json"))
        accounting = dict(found["accounting"])
        assert accounting.pop("read") == sum(accounting.values())
        return found

    def path(self, name: str) -> Path:
        """Return a file of the state folder, as the host sees it."""
        return self.container.path(f"{self.state}/{name}")
