"""The README's chapter on systemd, as the commands in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.suites.systemd.prepare import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.suites.systemd.container import Container


def blocks() -> list[str]:
    """Return the blocks of commands of the chapter, in order."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    chapter = text.partition("\n## Under systemd\n")[2].partition("\n## ")[0]
    return re.findall(r"^```bash\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)


def run_block(
    container: Container,
    number: int,
    *,
    user: str = "",
    environ: Mapping[str, str] | None = None,
    ten_minutes: str = "",
) -> str:
    """Run one block in a checkout, as its reader would, and return what it printed.

    Args:
        container: where.
        number: which one.
        user: who; root if it is empty.
        environ: what else the user finds in the environment.
        ten_minutes: what stands in for "10m", which would be long for a test.
    """
    text = blocks()[number]
    script = text.replace("10m", ten_minutes) if ten_minutes else text
    folder = f"/home/{user}/checkout" if user else "/root/checkout"
    done = container.call("bash", "-ec", script, user=user, folder=folder, environ=environ)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
