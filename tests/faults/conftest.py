"""The faults that are known and not mended yet. Each line goes away with its fault."""

from __future__ import annotations

import pytest

OPEN = {
    "test_one_line_that_was_rewritten_in_a_large_shard_is_read": "beyond 1 MiB, windows are compared (ADR 0006)",
    "test_a_tail_that_was_too_long_and_becomes_lines_is_read": "a tail beyond max_line_bytes is not searched again",
    "test_a_change_between_any_two_system_calls_loses_no_line": "an overwrite in the midst of a read",
    "test_half_a_page_of_zeros_is_refused_or_does_no_harm": "damage inside a page of the ledger is not looked for",
    "test_a_ledger_that_was_cut_is_refused_or_does_no_harm": "damage inside a page of the ledger is not looked for",
    "test_a_ledger_whose_creation_lost_its_power_is_begun_again": "it is refused, and moved away by hand",
    "test_no_promise_is_broken_in_the_life_of_seed[52]": "a ledger whose creation lost its power is refused",
}
"""Name of a test, with its parameters or for some of them -> what is not mended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of open faults fail, and say why."""
    for item in items:
        reason = OPEN.get(item.name) or OPEN.get(item.name.partition("[")[0])
        if reason and "faults" in item.path.parts:
            item.add_marker(pytest.mark.xfail(reason=f"open: {reason}", strict=False))
