"""Progress of a pass as one moving line on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from streamer.base.events import Committed, Emit, Event, Quiet


@contextmanager
def shown(stream_is_tty: bool) -> Iterator[Callable[[Emit], Emit]]:  # noqa: FBT001 - a fact, not a mode
    """Yield a wrapper of ``emit`` that shows batches as moving counts on a terminal, and passes on other events."""
    if not stream_is_tty:
        yield lambda otherwise: otherwise
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Counts(progress).over


class _Counts:
    """Adds up the lines and records of batches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("looking for shards", total=None)
        self._read = self._appended = 0

    def over(self, otherwise: Emit) -> Emit:
        """Return a function that counts batches, and passes on other events."""

        def emit(event: Event) -> None:
            if isinstance(event, Committed | Quiet):
                self._count(event)
            else:
                otherwise(event)

        return emit

    def _count(self, event: Committed) -> None:
        self._read += event.read
        self._appended += event.appended
        text = f"{self._read:,} lines read, {self._appended:,} records appended"
        self._progress.update(self._task, description=text)
