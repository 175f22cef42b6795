"""The backlog of an uplink: which key a line gets, and when it is computed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio

from streamer.base.files import Files
from streamer.core.records.dataset_line import line_key
from streamer.core.records.key import DedupBy
from streamer.fleet.backlog import Backlog
from streamer.fleet.outbox import Outbox
from streamer.store.ledger import delivery
from streamer.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.base.events import Event

LINE = (
    b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"ho"}],'
    b'"metadata":{"run_id":"r","turn":0,"timestamp":null}}\n'
)
LINES = [LINE % number for number in range(5)]
OFFSETS = [sum(map(len, LINES[:number])) for number in range(len(LINES) + 1)]
HANDED = b"k" * 16


def test_a_key_that_was_handed_over_is_not_computed_again(tmp_path: Path) -> None:
    """Lines without one have theirs computed, in the next epoch all of them."""
    (tmp_path / "good.jsonl").write_bytes(b"".join(LINES))
    events: list[Event] = []

    async def main() -> tuple[list[bytes | None], list[bytes | None]]:
        async with Ledger.open(tmp_path / "ledger", Files()) as ledger:
            await ledger.transact(partial(delivery.prepare, collector="ab"))
            outbox = Outbox(tmp_path / "good.jsonl", ledger, Files())
            backlog = Backlog(outbox, ledger, DedupBy.CONVERSATION, events.append)
            await backlog.begin(4)
            backlog.committed(OFFSETS[-1], [(HANDED, OFFSETS[1]), (HANDED, OFFSETS[1] + 1), (HANDED, OFFSETS[3])])
            first = [one.key for one in await backlog.read()]
            await backlog.begin(4)
            return first, [one.key for one in await backlog.read()]

    first, second = anyio.run(main)
    computed = [line_key(line, DedupBy.CONVERSATION) for line in LINES]
    assert first == [computed[0], HANDED, computed[2], HANDED, computed[4]]
    assert second == computed
    assert not events
