"""What a daemon says of itself, and when it takes itself for idle."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest

from streamer.base.errors import ConfigError, UnavailableError
from streamer.commands.cli import _app
from streamer.core.records.model import State
from streamer.daemon.status import DatasetStatus, StatusText
from streamer.store.ledger.ledger import LineCounts
from tests.helpers.place import PATIENCE, Place, ended, until
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place in which rollout ``good`` was good."""
    made = Place(tmp_path)
    add_outcome(make_traces(made.traces), "good", 3, 10)
    return made


class TestText:
    """In plain words."""

    def told(self, *, dead: int = 0, behind: float | None = 0.04, error: UnavailableError | None = None) -> str:
        """Return the text for some accounts."""
        lines = dict.fromkeys(State, 0) | {State.ACCEPTED: 2314, State.WAITING: 40, State.DEAD_LETTERED: dead}
        texts = list[str]()
        StatusText(texts.append).updater(Path("a.jsonl"))(DatasetStatus(LineCounts(lines, 3, 187), behind, error))
        return texts[0]

    def test_records_rollouts_what_waits_and_how_far_behind(self) -> None:
        """And nothing that is not so."""
        assert self.told() == "2,314 records from 187 rollouts; 3 waiting; 40 ms behind"

    def test_dead_letters_and_what_cannot_be_read(self) -> None:
        """With its cause."""
        error = UnavailableError("read outcomes", "/traces.db", "there is no such file yet")
        expected = "3 waiting; 1 dead letter; cannot read outcomes: there is no such file yet"
        assert self.told(dead=1, behind=None, error=error).endswith(expected)

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.0004, "0 ms"), (0.999, "999 ms"), (1.25, "1.2 s"), (90.0, "1.5 min"), (9000.0, "2.5 h")],
    )
    def test_a_duration_is_told_in_its_own_size(self, seconds: float, text: str) -> None:
        """From milliseconds to hours."""
        assert f"; {text} behind" in self.told(behind=seconds)


class TestIdle:
    """``--until-idle``."""

    @pytest.mark.slow
    def test_it_takes_all_there_is_and_ends(self, place: Place) -> None:
        """With exit code 0; a line that waits for its outcome does not hold it up."""
        place.shard("a.jsonl", dialogue("good", 0, "a"), dialogue("open", 0, "b"))
        with place.daemon("--until-idle", "300ms") as daemon:
            assert daemon.wait(timeout=PATIENCE) == 0
            assert place.texts() == {"a"}
            assert place.events("idle")[0]["seconds"] == 0.3
            assert place.events("stopped")

    @pytest.mark.slow
    def test_what_comes_begins_the_wait_anew(self, place: Place) -> None:
        """As often as it comes: shards, and bytes of a line that is not finished."""
        with place.daemon(STREAMER_UNTIL_IDLE="2") as daemon:
            line = jsonl(dialogue("good", 99, "last"))
            with (place.shards / "b.jsonl").open("ab", buffering=0) as shard:
                for number in range(30):
                    shard.write(line[number : number + 1])
                    place.shard("a.jsonl", dialogue("good", number, str(number)))
                    until(partial(place.holds, number + 1))
                assert daemon.poll() is None
                shard.write(line[30:])
            assert daemon.wait(timeout=PATIENCE) == 0
            assert place.texts() == {*map(str, range(30)), "last"}

    @pytest.mark.slow
    def test_a_database_that_cannot_be_read_is_no_good_end(self, place: Place) -> None:
        """Exit code 3, as nothing was seen, not as nothing came."""
        place.traces.unlink()
        with place.daemon("--until-idle", "300ms") as daemon:
            assert daemon.wait(timeout=PATIENCE) == 3
            assert "traces.db: there is no such file yet" in place.log.read_text()
            assert "Traceback" not in place.log.read_text()

    @pytest.mark.slow
    def test_a_full_disk_is_not_taken_for_idle(self, place: Place) -> None:
        """What could not be written is still to be done."""
        place.shard("a.jsonl", dialogue("good"))
        place.dataset.symlink_to("/dev/full")
        with place.daemon("--until-idle", "200ms") as daemon:
            until(lambda: place.events("trouble"))
            daemon.send_signal(signal.SIGTERM)
            assert ended(daemon) == 0
            assert not place.events("idle")

    @pytest.mark.parametrize("text", ["soon", "-1", "0", "10 minutes"])
    def test_what_is_no_duration_is_named(self, place: Place, text: str) -> None:
        """A configuration error, before anything is read."""
        with pytest.raises(ConfigError, match="--until-idle"):
            _app(["run"])(["run", "--config", str(place.config), f"--until-idle={text}"], standalone_mode=False)
