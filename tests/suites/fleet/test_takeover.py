"""`streamer fleet take`: the buckets of a writer that is gone for good, while collectors go on."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.suites.fleet.company import Company, Writer
from tests.suites.fleet.fleets import hurry, init, owners, run, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.suites.fleet.servers import Server

BUCKETS = "buckets = 4"


@pytest.fixture
def hosts(server: Server, tmp_path: Path) -> Company:
    """Return a small company whose fleet is set up."""
    init(write_config(tmp_path / "admin.toml", [server.url], [server.monitor], BUCKETS), "--replicas", 1)
    hurry([server.url], 4)
    return Company(tmp_path / "hosts", [server.url], 2, ("0-1", "2-3"))


def test_another_writer_goes_on_where_a_lost_one_was(hosts: Company, server: Server, tmp_path: Path) -> None:
    """With the keys of a copy of its dataset nothing is written twice, though it is all played once more elsewhere."""
    with hosts:
        hosts.play(12)
        hosts.settle()
        lost, left = hosts.writers
        lost.end()
        copy = tmp_path / "copy.jsonl"
        shutil.copy(lost.dataset, copy)
        hosts.play(6)
        done = run("fleet", "take", "0-1", "--from-dataset", copy, "--config", tmp_path / "admin.toml")
        assert done.returncode == 0, done.stderr
        assert f"{lost.lines()} keys go with them" in done.stdout
        left.end(signal.SIGTERM)
        left.buckets = "0-3"
        left.configure()
        left.start()
        hosts.collectors[0].plays(hosts.rollouts[:12])  # all of them, with the same conversations
        hosts.settle()
        hosts.check()
        held = {owner["writer"].partition(".")[0] for owner in owners([server.url]).values()}
        assert held == {left.folder.name}


def test_an_owner_that_comes_back_after_all_is_the_owner_no_more(
    hosts: Company, server: Server, tmp_path: Path
) -> None:
    """It pulls nothing, and says whose its buckets are."""
    with hosts:
        hosts.play(6)
        hosts.settle()
        gone, left = hosts.writers
        gone.end()
        run("fleet", "take", "0-1", "--from-dataset", gone.dataset, "--config", tmp_path / "admin.toml")
        left.end(signal.SIGTERM)
        left.buckets = "0-3"
        left.configure()
        left.start()
        hosts.until(lambda: {one["writer"][:3] for one in owners([server.url]).values()} == {"w-1"})
        before = gone.lines()
        gone.start()
        hosts.until(lambda: "is w-1." in gone.log.read_text())
        hosts.play(6)
        hosts.settle()
        hosts.check()
        assert gone.lines() == before


def test_what_cannot_be_taken_is_refused(hosts: Company, tmp_path: Path) -> None:
    """A dataset that is being written, one that is none, buckets that are not there, and neither keys nor a word."""
    config = tmp_path / "admin.toml"
    with hosts:
        hosts.play(3)
        hosts.settle()
        refused = run("fleet", "take", "0", "--from-dataset", hosts.writers[0].dataset, "--config", config)
        assert refused.returncode == 5
        assert "holds it" in refused.stderr
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"a":1}\n')
    for arguments, code, words in (
        (("0", "--from-dataset", nothing), 5, "nothing.jsonl, line 1: it is no line of streamer's"),
        (("0", "--from-dataset", tmp_path / "missing.jsonl"), 3, "missing.jsonl"),
        (("4", "--without-keys"), 5, "they are numbered from 0 to 3"),
        (("0",), 2, "--without-keys"),
        (("x", "--without-keys"), 2, "BUCKETS"),
    ):
        refused = run("fleet", "take", *arguments, "--config", config)
        assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_writer_without_a_bucket_waits_and_says_for_whom(hosts: Company, server: Server, tmp_path: Path) -> None:
    """Two writers that want the same bucket: the second one writes nothing."""
    with hosts:
        hosts.play(3)
        hosts.settle()
        third = Writer(tmp_path / "w-3", [server.url], "0-1")
        third.start()
        try:
            hosts.until(lambda: third.log.exists() and "bucket 0 is w-0." in third.log.read_text())
            assert third.lines() == 0
        finally:
            third.end()
