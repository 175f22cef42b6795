"""What must hold for any configuration file, and a target for atheris.

``python tests/suites/faults/fuzz_config.py -runs=100000`` looks for more. Atheris is optional; everything that
it finds belongs into ``tests/config/test_config.py`` as an example.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from streamer.base.errors import ConfigError
from streamer.config import Config, Flags, load
from tests.suites.faults.fuzz_lines import fuzz

EXAMPLE = (
    Path(__file__).resolve().parents[3] / "streamer" / "commands" / "install_service" / "units" / "config.toml"
).read_text(encoding="utf-8")
_FLAGS = Flags(shards="shards", database="traces.db")


def check(data: bytes, file: Path) -> bool:
    """See that a file is taken, or named as wrong in one sentence for each problem; say whether it was taken."""
    file.write_bytes(data)
    read = _read(file)
    if isinstance(read, ConfigError):
        assert read.where
        assert read.cause
        assert not {*str(read)} & {*map(chr, range(9)), "\x1b", "\x7f"}  # nothing that steers a terminal
        return False
    assert read.dataset.ledger != read.dataset.path
    assert read.batch.records > 0
    assert read.source.max_line_bytes > 0
    return True


def _read(file: Path) -> Config | ConfigError:
    try:
        return load(file, {}, _FLAGS)
    except ConfigError as error:
        return error


def main() -> None:
    """Let atheris look for files that break it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.toml")
        lines = EXAMPLE.splitlines()
        everything = "\n".join(line.removeprefix("# ") if " = " in line else line for line in lines)
        fuzz(lambda data: check(data, file), [EXAMPLE.encode(), everything.encode()])


if __name__ == "__main__":
    main()
