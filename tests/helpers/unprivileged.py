"""Run a command without the privileges of root, so that it meets permissions as every other user does."""

from __future__ import annotations

import os

UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--") if os.geteuid() == 0 else ()
"""What to put before a command.

Root without capabilities owns what the tests make, as any user would, and the modes of files bind it. It keeps its uid,
as a Python below /root is not there for another one.
"""
