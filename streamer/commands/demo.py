"""``streamer demo``: a daemon next to a producer, its dataset growing live, the accounts at the end."""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.demo.episodes import require_crafter
from streamer.errors import ConfigError, UnavailableError
from streamer.snapshot import Snapshot, snapshot
from streamer.text import printable

POLL_SECONDS = 0.25
PLAIN_SECONDS = 1.0
SETTLE_SECONDS = 10.0
"""Without a change for so long, the counts are as settled as they will get."""

STOP_SECONDS = 10.0
TAIL_BYTES = 64 * 1024
NEWEST = 4
GROWTH_COLUMNS = 40
BARS = "▁▂▃▄▅▆▇█"

FATES = {
    "appended": ("appended", "green"),
    "duplicate": ("duplicate", "yellow"),
    "below_bar": ("below the bar", "magenta"),
    "waiting": ("waiting", "cyan"),
    "never_scored": ("never scored", "blue"),
    "dead_lettered": ("dead-lettered", "red"),
}
"""Name and colour of each count of a snapshot; the six sum up to the lines read."""

MUST_HAPPEN = ("appended", "duplicate", "below_bar")
"""A demo in which one of these never happened has shown nothing."""


def demo(
    rollouts: Annotated[int, typer.Option(min=5, help="How many to play; five show every fate.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 7,
    folder: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for everything.", show_default="demo-run/<Y-m-d_H-M-S>"),
    ] = None,
    pace: Annotated[float, typer.Option(min=0, help="Seconds between two rollouts.")] = 0.4,
) -> None:
    """Watch a dataset grow: a real producer plays Crafter while a daemon reads along.

    Needs the extra: pip install 'streamer[demo]'. Everything stays in one folder, to look at afterwards.

    Example: streamer demo --rollouts 12 --folder /tmp/crafter-demo
    """
    require_crafter()
    show = Show(Place(_fresh(folder)), rollouts, seed, pace)
    try:
        faults = show.run()
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; daemon and producer are stopped. What there is: {_shown(show.place.folder)}")
        raise typer.Exit(130) from None
    for fault in faults:
        typer.echo(f"FAILED: {fault}", err=True)
    raise typer.Exit(1 if faults else 0)


class Place(msgspec.Struct, frozen=True):
    """Where everything of one demo lies."""

    folder: Path

    @property
    def shards(self) -> Path:
        """The folder that the producer fills."""
        return self.folder / "shards"

    @property
    def database(self) -> Path:
        """The producer's trace database."""
        return self.folder / "traces.db"

    @property
    def dataset(self) -> Path:
        """What the daemon makes of both."""
        return self.folder / "high_reward.jsonl"

    def log(self, name: str) -> Path:
        """Return the file with what a child of this name said."""
        return self.folder / f"{name}.log"

    def lines_written(self) -> int:
        """Count the finished lines of all shards."""
        return sum(shard.read_bytes().count(b"\n") for shard in self.shards.glob("*.jsonl"))


class Child:
    """A process that cannot outlive the demo; use it as a context manager.

    It has a session of its own, so that Ctrl-C reaches the demo alone and the demo decides who stops first.
    """

    def __init__(self, name: str, log: Path, command: Sequence[str]) -> None:
        self.name = name
        self._log = log
        self._command = command

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own modules
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_leash(),  # noqa: PLW1509 - no thread runs yet
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def status(self) -> int | None:
        """The exit status, None while the process runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Ask with SIGTERM, insist after a while; return the exit status."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        except BaseException:
            # A second Ctrl-C: no more patience.
            self._process.kill()
            raise
        return self._process.wait()

    def fault(self) -> str:
        """Say how the process ended, with the end of its log."""
        tail = self._log.read_text("utf-8", "backslashreplace").splitlines()[-15:]
        return "\n".join(
            [f"the {self.name} ended with status {self.status}", *(f"  {printable(line)}" for line in tail)]
        )


def _environment() -> dict[str, str]:
    """Return ours without the settings of another daemon: the demo shows the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}


def _leash() -> Callable[[], None] | None:
    """Return what a new process calls so that it ends with us, even when we are killed."""
    if sys.platform != "linux":
        return None
    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(pr_set_pdeathsig, int(signal.SIGTERM))


class View(msgspec.Struct, frozen=True):
    """What there is to see at one moment."""

    seconds: float
    rollouts: int
    played: int
    counts: Snapshot
    growth: tuple[int, ...]
    newest: tuple[str, ...]


class Screen(Protocol):
    """Where views are shown."""

    def show(self, view: View) -> None:
        """Show one view; it may be skipped."""


class PlainScreen:
    """One line at a change, at most one a second: for files and pipes."""

    def __init__(self) -> None:
        self._last = ""
        self._next = 0.0

    def show(self, view: View) -> None:
        """Print the accounts if they changed."""
        line = f"rollouts {view.played}/{view.rollouts}  {_accounts(view.counts)}"
        if line == self._last or view.seconds < self._next:
            return
        self._last, self._next = line, view.seconds + PLAIN_SECONDS
        typer.echo(f"{view.seconds:6.1f} s  {line}")


class LiveScreen:
    """The same place of a terminal, drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: View) -> None:
        """Draw the view."""
        self._live.update(_drawn(view), refresh=True)


@contextlib.contextmanager
def _screen() -> Iterator[Screen]:
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainScreen()
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveScreen(live)


class Show:
    """One demo from the first process to the last.

    Args:
        place: where everything goes.
        rollouts: how many the producer plays.
        seed: its first seed.
        pace: seconds between two rollouts.

    """

    def __init__(self, place: Place, rollouts: int, seed: int, pace: float) -> None:
        self.place = place
        self._rollouts = rollouts
        self._producer = Child("producer", place.log("producer"), _producer(place, rollouts, seed, pace))
        self._daemon = Child("daemon", place.log("daemon"), _daemon(place))
        self._started = time.monotonic()
        self._counts = snapshot(place.dataset)
        self._growth = [0]

    def run(self) -> list[str]:
        """Start both, watch, stop both, sum up; return what went wrong."""
        typer.echo(f"everything is in {_shown(self.place.folder)}")
        with self._daemon:
            with self._producer, _screen() as screen:
                faults = self._watch(screen)
            seconds = self._seconds()
            if self._daemon.stop() and not faults:
                faults = [self._daemon.fault()]
        shortfalls = self._sum_up(seconds)
        return faults or shortfalls

    def _watch(self, screen: Screen) -> list[str]:
        settling = Settling(self.place)
        while True:
            view = self._look()
            screen.show(view)
            if self._daemon.status is not None:
                return [self._daemon.fault()]
            if self._producer.status:
                return [self._producer.fault()]
            if self._producer.status == 0 and settling.settled(view):
                return []
            time.sleep(POLL_SECONDS)

    def _look(self) -> View:
        # A ledger that is busy right now is looked at again in a moment.
        with contextlib.suppress(UnavailableError):
            self._counts = snapshot(self.place.dataset)
        self._growth.append(self._counts.dataset_lines)
        # The producer says one line a rollout.
        played = self.place.log("producer").read_bytes().count(b"\n")
        newest = _newest(self.place.dataset)
        return View(self._seconds(), self._rollouts, played, self._counts, tuple(self._growth), newest)

    def _sum_up(self, seconds: float) -> list[str]:
        counts = snapshot(self.place.dataset)
        written = self.place.lines_written()
        typer.echo(f"\n{written} lines written by the producer in {seconds:.1f} s")
        typer.echo("\n".join(_summary(self.place, counts)))
        return _faults(counts, written)

    def _seconds(self) -> float:
        return time.monotonic() - self._started


class Settling:
    """Tells when nothing more is to come after the producer has ended."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._counts: dict[str, int] = {}
        self._changed = 0.0

    def settled(self, view: View) -> bool:
        """Say whether every written line has its fate, or nothing has moved for a while."""
        if view.counts.counts != self._counts:
            self._counts, self._changed = view.counts.counts, view.seconds
        done = view.counts.counts["waiting"] == 0 and view.counts.read == self._place.lines_written()
        return done or view.seconds - self._changed >= SETTLE_SECONDS


def _fresh(folder: Path | None) -> Path:
    """Make the folder of the demo; one with something in it is refused, as its counts would not add up."""
    folder = folder or Path("demo-run") / f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise ConfigError("make the folder", _shown(folder), error.strerror or str(error)) from error
    if used:
        raise ConfigError("use the folder", _shown(folder), "it is not empty", "give a new one with --folder")
    (folder / "shards").mkdir()
    return folder.resolve()


def _producer(place: Place, rollouts: int, seed: int, pace: float) -> list[str]:
    where = ["--shards", str(place.shards), "--database", str(place.database)]
    how = ["--rollouts", str(rollouts), "--seed", str(seed), "--pace", str(pace)]
    return [sys.executable, "-m", "streamer.demo.producer", *where, *how]


def _daemon(place: Place) -> list[str]:
    where = ["--shards", str(place.shards), "--database", str(place.database)]
    return [sys.executable, "-m", "streamer", "run", *where, "--dataset", str(place.dataset)]


def _accounts(counts: Snapshot) -> str:
    fates = (f"{name} {counts.counts[key]}" for key, (name, _) in FATES.items())
    return f"read {counts.read} = {' + '.join(fates)}"


def _summary(place: Place, counts: Snapshot) -> Iterator[str]:
    dataset = shlex.quote(_shown(place.dataset))
    yield _accounts(counts)
    yield f"dataset: {_shown(place.dataset)} ({counts.dataset_lines} lines, {_size(counts.dataset_bytes)})"
    yield ""
    yield "Look further:"
    yield f"  streamer verify {dataset}"
    yield f"  streamer tail --dataset {dataset} -n 3 --no-follow"
    yield f"  streamer status --dataset {dataset}"
    yield f"  jq -r '.messages[-1].tool_calls[0].function.arguments' {dataset} | sort | uniq -c | sort -n"


def _faults(counts: Snapshot, written: int) -> list[str]:
    faults = [f"no record was {FATES[key][0]}" for key in MUST_HAPPEN if not counts.counts[key]]
    if counts.read != written:
        faults.append(f"{written} lines were written, but {counts.read} read")
    if counts.dataset_lines != counts.counts["appended"]:
        faults.append(f"the dataset has {counts.dataset_lines} lines, not one for each record appended")
    return faults


def _newest(dataset: Path) -> tuple[str, ...]:
    """Return the newest replies in the dataset, one line each, the newest last."""
    try:
        with dataset.open("rb") as file:
            start = max(0, dataset.stat().st_size - TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return ()
    whole = lines[1:] if start else lines
    return tuple(_reply(msgspec.json.decode(line)) for line in whole[-NEWEST:])


def _reply(line: dict[str, Any]) -> str:
    message, metadata = line["messages"][-1], line["metadata"]
    calls = (json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
    actions = " ".join(action for call in calls for action in call["actions"])
    return f"reward {metadata['total_reward']}  turn {metadata['turn']}  {actions}  {message['content']}"


def _drawn(view: View) -> Group:
    head = Text(f"streamer demo  {view.seconds:5.1f} s  ", style="bold")
    head.append(f"rollouts {view.played}/{view.rollouts} ", style="default")
    head.append_text(_bar(view.played, view.rollouts, "blue"))
    size = f"{view.counts.dataset_lines} lines, {_size(view.counts.dataset_bytes)}"
    growth = Text("\ndataset  ").append(size, style="bold").append(f"  {_sparkline(view.growth)}", style="green")
    newest = [Text(printable(reply), style="dim", no_wrap=True, overflow="ellipsis") for reply in view.newest]
    return Group(head, Text(), _flow(view.counts), growth, *newest)


def _flow(counts: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(justify="right", min_width=6)
    table.add_row(Text("read", style="bold"), Text(str(counts.read), style="bold"))
    for key, (name, colour) in FATES.items():
        count = counts.counts[key]
        table.add_row(Text(name), Text(str(count)), _bar(count, counts.read, colour))
    return table


def _bar(part: int, whole: int, colour: str) -> Text:
    filled = round(GROWTH_COLUMNS * min(part, whole) / whole) if whole else 0
    return Text.assemble(("━" * filled, colour), ("─" * (GROWTH_COLUMNS - filled), "dim"))


def _sparkline(values: Sequence[int]) -> str:
    """Draw the whole history in a fixed width, from zero to its highest value."""
    width = min(GROWTH_COLUMNS, len(values))
    picked = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    top = max(values) or 1
    return "".join(BARS[value * (len(BARS) - 1) // top] for value in picked)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _shown(path: Path) -> str:
    return printable(str(path))
