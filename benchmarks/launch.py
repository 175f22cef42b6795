"""Run one command and say what it took, as JSON on standard output; call it as ``launch.py LOG COMMAND...``.

Linux counts the memory of the process that starts another one into the peak of that one. So this is a process of
its own that imports next to nothing: its few MB are the floor of every peak.
"""

import json
import os
import sys
import time


def main(log: str, *command: str) -> None:
    """Run ``command`` with its output in the file ``log``; print exit code, seconds and bytes."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    redirects = [(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=redirects)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    code, cpu = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
    print(json.dumps({"code": code, "wall": wall, "cpu": cpu, "peak": usage.ru_maxrss * 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
