"""The benchmarks measure what they say: corpora are what they promise, and outputs are compared rightly.

No time is looked at here: what is fast on one machine is slow on another.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, scale
from benchmarks.compare import Contents, contents
from benchmarks.contenders import CONTENDERS, OUTPUT, Contender
from benchmarks.conversations import Kind
from benchmarks.corpus import Corpus, Layout
from benchmarks.live import Growth
from benchmarks.measure import measure
from benchmarks.producer import corpus as plain_corpus
from benchmarks.producer import produce
from benchmarks.results import Backlog, Machine, Measured, Results, load, machine, quantile
from benchmarks.running import Place, live_contenders, started
from benchmarks.sizes import QUICK
from streamer.core.records import images, layouts
from streamer.core.records.key import KEY_BYTES

MIB = 1 << 20


def small(
    layout: Layout = Layout.TASKAPP, kind: Kind = Kind.TEXT, seed: int = 1, prompt_bytes: int = 0, records: int = 400
) -> Corpus:
    """Return a corpus that is written in no time."""
    return Corpus(kind, layout, records=records, shards=40, seed=seed, prompt_bytes=prompt_bytes)


def files(folder: Path) -> dict[str, bytes]:
    """Return the shards of a corpus by name."""
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def conversations(corpus: Corpus, *, qualifying: bool = False) -> list[list[dict[str, Any]]]:
    """Return the conversations of a corpus in order, as streamer reads them."""
    chosen = (rollout for rollout in range(corpus.shards) if corpus.qualifies(rollout) or not qualifying)
    return [
        layouts.read(line, corpus.name(rollout)).messages
        for rollout in chosen
        for line in corpus.shard(rollout).splitlines()
    ]


# -- corpora -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("kind", Kind)
def test_a_corpus_depends_on_its_seed_alone(tmp_path: Path, kind: Kind, layout: Layout) -> None:
    """The same seed gives the same bytes, another one shards of other rollouts."""
    made = small(layout, kind, records=80).write(tmp_path / "a")
    assert small(layout, kind, records=80).write(tmp_path / "b") == made
    small(layout, kind, seed=2, records=80).write(tmp_path / "c")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not files(tmp_path / "a").keys() & files(tmp_path / "c").keys()


@pytest.mark.parametrize("kind", Kind)
def test_both_layouts_hold_the_same_conversations(kind: Kind) -> None:
    """What streamer reads of one layout equals what it reads of the other."""
    one, other = (small(layout, kind, prompt_bytes=100, records=80) for layout in Layout)
    assert conversations(one) == conversations(other)


@pytest.mark.slow
@pytest.mark.parametrize("layout", Layout)
def test_half_of_the_rollouts_qualify_and_some_records_repeat_earlier_ones(tmp_path: Path, layout: Layout) -> None:
    """Outcomes, the list of qualifying shards and the counts all say the same."""
    corpus = small(layout, records=8_000)
    made = corpus.write(tmp_path / "corpus")
    with closing(sqlite3.connect(tmp_path / "corpus" / "traces.db")) as db:
        rewards = dict(db.execute("SELECT session_id, total_reward FROM outcome_rewards"))
    good = {corpus.name(rollout) for rollout in range(40) if rewards[corpus.run_id(rollout)] > 0}
    listed = (tmp_path / "corpus" / "qualifying").read_bytes().split(b"\0")[:-1]
    found = [layouts.read(line, "").messages for name in good for line in files(tmp_path / "corpus")[name].splitlines()]
    assert len(rewards) == 2 * len(good) == 40
    assert {Path(path.decode()).name for path in listed} == good
    assert made.qualifying == len(found) == 4_000
    assert made.distinct == len({str(messages) for messages in found})
    assert 0.03 < 1 - made.distinct / made.qualifying < 0.07


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(("kind", "size"), [(Kind.TEXT, 3_240), (Kind.IMAGES, 23_300)])
def test_lines_are_as_long_as_promised(kind: Kind, size: int, layout: Layout) -> None:
    """A corpus of so many records is as large as the figures say, in either layout."""
    lines = small(layout, kind).shard(3).splitlines(keepends=True)
    assert sum(map(len, lines)) / len(lines) == pytest.approx(size, rel=0.03)


def test_images_are_images() -> None:
    """Image records hold images that decode, as `streamer verify` would find."""
    for messages in conversations(small(kind=Kind.IMAGES, records=40)):
        (part,) = messages[1]["content"]
        assert images.check_image(part, "here", decode=True) == images.CheckedImage(images.ImageFate.DECODED)


def test_in_a_plain_corpus_everything_qualifies_and_differs() -> None:
    """What the live benchmark waits for does come: no rollout is below the bar or a duplicate."""
    corpus = plain_corpus(rollouts=40, seed=1)
    assert all(map(corpus.qualifies, range(40)))
    assert len({str(messages) for messages in conversations(corpus)}) == corpus.records


# -- contenders --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_contender_writes_the_same_conversations(
    tmp_path: Path, contender: Contender, kind: Kind, layout: Layout
) -> None:
    """The conversations of qualifying rollouts, each once but for the floor, and nothing else."""
    if not contender.installed:
        pytest.skip(f"{contender.needs} is not installed")
    corpus = small(layout, kind, records=1_000 if kind is Kind.TEXT else 200)
    made = corpus.write(tmp_path / "corpus")
    (tmp_path / "out").mkdir()
    measure(contender.command(tmp_path / "corpus", tmp_path / "out"), tmp_path / "log")
    found = contents(tmp_path / "out" / OUTPUT)
    expected = {str(messages) for messages in conversations(corpus, qualifying=True)}
    assert found.distinct == made.distinct
    assert found.lines == (made.distinct if contender.deduplicates else made.qualifying)
    assert {str(layouts.read(line, "").messages) for line in lines_of(tmp_path / "out" / OUTPUT)} == expected


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file."""
    return path.read_bytes().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("named", live_contenders(), ids=lambda named: named[0])
def test_who_reads_along_takes_what_comes(tmp_path: Path, named: Any) -> None:
    """Rollouts that end while a contender runs come to its output whole, whichever half is first."""
    _, command = named
    place = Place(plain_corpus(rollouts=4, seed=1), tmp_path).make()
    with started(command(tmp_path, place.out), tmp_path / "log"):
        place.add(0)
        place.wait_for(0)
        ended = produce(place.shards, place.database, place.corpus, rate=100, synchronous="off", first=1)
        place.wait_for_lines(place.corpus.records)
    assert [one.session for one in ended] == [place.corpus.run_id(rollout) for rollout in (1, 2, 3)]
    assert contents(place.output).distinct == place.corpus.records


# -- comparing and measuring -------------------------------------------------------------------------------


def test_outputs_with_other_conversations_differ(tmp_path: Path) -> None:
    """Order and metadata do not count; a conversation more, less, or other by one character does."""
    corpus = small(Layout.MESSAGES)
    first, second, third = (corpus.shard(rollout).splitlines(keepends=True)[0] for rollout in range(3))

    def read(*lines: bytes) -> Contents:
        (tmp_path / "output").write_bytes(b"".join(lines))
        return contents(tmp_path / "output")

    assert read(first, second) == read(second, first)
    assert read(first, second).digest == read(first, second, first).digest
    assert read(first, second, first).lines == 3
    assert len({read(first).digest, read(first, second).digest, read(first, third).digest}) == 3
    assert read(first).digest != read(first.replace(b"Health", b"health")).digest


def test_the_peak_is_of_the_command_alone(tmp_path: Path) -> None:
    """What the measuring process holds is not counted, what the command takes is."""
    held = bytearray(200 * MIB)
    light = measure([sys.executable, "-c", "pass"], tmp_path / "log")
    heavy = measure([sys.executable, "-c", f"bytearray(b'x' * {100 * MIB})"], tmp_path / "log")
    assert light.peak < 50 * MIB < 100 * MIB < heavy.peak
    assert len(held) == 200 * MIB


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """What it said is part of the error."""
    with pytest.raises(RuntimeError, match="no such thing"):
        measure([sys.executable, "-c", "import sys; sys.exit('no such thing')"], tmp_path / "log")


def test_a_rollout_is_there_when_its_last_line_is(tmp_path: Path) -> None:
    """The time of a session is the first at which the file was long enough to hold its last line."""
    corpus = small(Layout.MESSAGES)
    path, first, second = tmp_path / "output", corpus.shard(0), corpus.shard(1)
    path.touch()
    growth = Growth(path)
    for part in (first[:100], first[100:], second):
        with open(path, "ab") as output:
            output.write(part)
        growth.look()
    growth.look_until(2 * len(corpus.numbers(0)))
    found = growth.last_lines(len(corpus.numbers(0)))
    assert list(found) == [corpus.run_id(0), corpus.run_id(1)]
    assert 0 < found[corpus.run_id(0)] < found[corpus.run_id(1)]
    assert growth.last_lines(1) == {}


@pytest.mark.slow
def test_a_ledger_can_be_filled_with_keys(tmp_path: Path) -> None:
    """The scale benchmark runs over ledgers with as many keys as asked for."""
    sizes = type(QUICK)(rounds=1, keys=(0, 100_000), further_records=200)
    small_ledger, large = scale.run(sizes, tmp_path / "scale")
    assert (small_ledger.keys, large.keys) == (0, 100_000)
    assert large.ledger_bytes - small_ledger.ledger_bytes > 100_000 * KEY_BYTES
    assert not (tmp_path / "scale").exists()


# -- results -----------------------------------------------------------------------------------------------


def test_quantiles_are_values_that_were_seen() -> None:
    """The p99 of a hundred values is the second largest, the last one is the largest."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, part) for part in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert quantile([7.0], 0.5) == 7


def test_ratios_are_of_the_same_round() -> None:
    """A round in which everything took twice as long changes no ratio."""
    runs = {
        "streamer": [Measured(4.0, 3.0, MIB), Measured(8.0, 6.0, MIB), Measured(4.0, 3.0, MIB)],
        "DuckDB": [Measured(2.0, 3.0, MIB), Measured(4.0, 6.0, MIB), Measured(2.0, 3.0, MIB)],
    }
    text = report.table(Results(machine(), backlog=[Backlog("text, taskapp", 10, 1, 8_000_000, 5, runs)]))
    assert "| streamer | 4.00 | 4.00-8.00 | 2 | 3.00 | 1 | 2.00 |  |  | 1.00 |  |" in text


def test_results_of_another_machine_are_not_mixed_with_these(tmp_path: Path) -> None:
    """Parts that were measured before stay, if they are of this machine and of this size."""
    path = tmp_path / "results.json"
    one = Backlog("text, taskapp", 10, 1, 8_000_000, 5, {"streamer": [Measured(4.0, 3.0, MIB)]})
    report.write(Results(machine(), backlog=[one]), tmp_path)
    assert load(path, quick=False).backlog == [one]
    assert load(path, quick=True).backlog == []
    report.write(Results(Machine("another", 1, 1, "", "", {}), backlog=[one]), tmp_path)
    assert load(path, quick=False) == Results(machine())
