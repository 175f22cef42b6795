"""Reader of an outbox: lines by log offset, while the dataset grows, rotates and loses parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from anyio import to_thread

from streamer.base.errors import UnavailableError
from streamer.base.files import Files
from streamer.base.lines import FileLine, complete_read, next_lines
from streamer.store.ledger.files import LedgerFile, file_at
from streamer.store.ledger.ledger import Ledger
from streamer.store.parts.files import open_by_number


class _Read(msgspec.Struct, frozen=True):
    """Lines by log offset, and the log offset after them; no lines if ``missing`` bytes before it were removed."""

    lines: Sequence[FileLine]
    after: int
    missing: int = 0


class Outbox:
    """Reads committed lines of a dataset.

    Args:
        path: The live file.
        ledger: Maps log offsets to parts.
        files: The system calls.
    """

    def __init__(self, path: Path, ledger: Ledger, files: Files) -> None:
        self._path = path
        self._ledger = ledger
        self._files = files

    async def read(self, offset: int, stop: int) -> _Read:
        """Return lines from a log offset on, before ``stop``: about a MiB of them, or one that is longer.

        Raises:
            UnavailableError: The outbox cannot be read now.
        """
        file = await self._ledger.look(partial(file_at, log_offset=offset))
        return await to_thread.run_sync(self._read, file, offset, stop)

    def _read(self, file: LedgerFile, offset: int, stop: int) -> _Read:
        end = stop if file.stop is None else min(stop, file.stop)
        start_offset, stop_offset = file.map.file_offset(offset), file.map.file_offset(end)
        try:
            fd = open_by_number(self._path, file.number, self._files, is_closed=file.stop is not None)
            try:
                found = next_lines(complete_read(self._files, fd, stop_offset), start_offset, stop_offset)
            finally:
                self._files.close(fd)
        except FileNotFoundError:
            if file.stop is None:
                raise self._unavailable("it is not there") from None
            return _Read((), file.stop, missing=file.stop - offset)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        lines = [FileLine(file.map.log_offset(line.offset), line.length, line.data) for line in found]
        return _Read(lines, lines[-1].stop if lines else end)

    def _unavailable(self, cause: str) -> UnavailableError:
        return UnavailableError("read the outbox", str(self._path), cause, "see the dataset's folder; it is retried")
