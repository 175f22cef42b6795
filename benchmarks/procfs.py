"""What Linux says of a process that runs: CPU, memory, context switches."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SWITCHES = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)
_RSS = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that a process has used, user and system, all of its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def rss(pid: int) -> int:
    """Return the bytes of memory that a process holds now."""
    return int(_RSS.findall(Path(f"/proc/{pid}/status").read_text())[0]) * 1024


def switches(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep of their own will."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int(_SWITCHES.findall((thread / "status").read_text())[0]) for thread in threads)
