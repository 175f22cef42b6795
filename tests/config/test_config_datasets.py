"""Tables [[dataset]]: one configuration for each of them, and every bad key with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.base.errors import ConfigError
from streamer.config import Config, Dataset, Flags, changes, dataset, datasets, load, load_all, reloaded
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.qualify import Images

FLAGS = Flags(shards="s", database="d.db")
TWO = """
[qualify]
where = "total_reward > 1"
[records]
images = "with"
[[cap]]
by = "run_id"
most = 5

[[dataset]]
path = "good.jsonl"

[[dataset]]
path = "best.jsonl"
ledger = "elsewhere.ledger"
qualify.where = "total_reward > 9"
records = { models = ["m"] }
[dataset.dedup]
by = "prompt"
[dataset.roll]
records = 10
[[dataset.cap]]
by = "prompt"
most = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a config file that a test may write."""
    return tmp_path / "config.toml"


def loaded(file: Path, text: str, environ: dict[str, str] | None = None, flags: Flags = FLAGS) -> list[Config]:
    """Write a config file and load it."""
    file.write_text(text, encoding="utf-8")
    return load_all(file, environ or {}, flags)


def complaint(file: Path, text: str, environ: dict[str, str] | None = None, flags: Flags = FLAGS) -> str:
    """Return the error of an invalid config file."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, environ, flags)
    return str(caught.value).replace(str(file), "FILE")


class TestSeveral:
    """An entry inherits missing keys from the tables above."""

    def test_each_entry_is_a_whole_configuration(self, file: Path) -> None:
        """Key by key; a list of caps takes the place of the other one."""
        good, best = loaded(file, TWO)
        folder = file.parent
        assert good.dataset == Dataset(folder / "good.jsonl", folder / "good.jsonl.ledger")
        assert best.dataset == Dataset(folder / "best.jsonl", folder / "elsewhere.ledger")
        assert (good.qualify.where, best.qualify.where) == ("total_reward > 1", "total_reward > 9")
        assert (good.records.models, best.records.models) == ((), ("m",))
        assert good.records.images is best.records.images is Images.WITH
        assert (good.dedup.by, best.dedup.by) == (DedupBy.CONVERSATION, DedupBy.PROMPT)
        assert (good.cap, best.cap) == ((Cap("run_id", 5),), (Cap("prompt", 1),))
        assert (good.roll.records, best.roll.records) == (None, 10)
        assert good.source == best.source
        assert (good.others, best.others) == ((best.dataset,), (good.dataset,))

    def test_it_does_not_matter_what_stands_first(self, file: Path) -> None:
        """Tables below [[dataset]] hold for it, too."""
        (only,) = loaded(file, '[[dataset]]\npath = "a.jsonl"\n[qualify]\nwhere = "1"\n')
        assert only.qualify.where == "1"

    def test_an_entry_can_be_without_caps(self, file: Path) -> None:
        """By an empty list."""
        (only,) = loaded(file, '[[cap]]\nby = "run_id"\nmost = 5\n[[dataset]]\npath = "a.jsonl"\ncap = []\n')
        assert only.cap == ()

    def test_one_table_is_as_it_was(self, file: Path) -> None:
        """And has no others."""
        (only,) = loaded(file, '[dataset]\npath = "a.jsonl"\n', flags=Flags("s", "d.db", "b.jsonl", "1"))
        assert (only.dataset.path, only.qualify.where, only.others) == (Path("b.jsonl"), "1", ())


class TestChosen:
    """A flag or variable that names a dataset chooses one of them."""

    def test_by_its_path_however_that_is_written(self, file: Path) -> None:
        """Then a condition from outside has a meaning, too."""
        name = str(file.parent / "x" / ".." / "best.jsonl")
        (best,) = loaded(file, TWO, flags=Flags("s", "d.db", name, "7"))
        assert (best.dataset.path.name, best.qualify.where) == ("best.jsonl", "7")
        (same,) = loaded(file, TWO, {"STREAMER_DATASET": name})
        assert same.dataset == best.dataset
        assert [other.path.name for other in same.others] == ["good.jsonl"]
        assert dataset(file, {}, name) == best.dataset
        assert load(file, {}, Flags("s", "d.db", name)).dataset == best.dataset

    def test_one_that_is_not_configured_is_refused_with_the_list(self, file: Path) -> None:
        """It would lack the rules that the file has for it."""
        text = complaint(file, TWO, {"STREAMER_DATASET": "other.jsonl"})
        assert 'STREAMER_DATASET: "other.jsonl" is none of the configured datasets' in text
        assert "good.jsonl, " in text
        assert "best.jsonl" in text

    @pytest.mark.parametrize(
        ("environ", "flags", "origin"),
        [({}, Flags("s", "d.db", where="1"), "--where"), ({"STREAMER_WHERE": "1"}, FLAGS, "STREAMER_WHERE")],
    )
    def test_a_condition_for_all_is_refused(
        self, file: Path, environ: dict[str, str], flags: Flags, origin: str
    ) -> None:
        """It would make them equal."""
        text = complaint(file, TWO, environ, flags)
        assert f"{origin}: there are several datasets, each with a condition of its own" in text

    def test_what_is_for_one_dataset_wants_to_know_which(self, file: Path) -> None:
        """The error names all datasets; commands for all of them get each."""
        file.write_text(TWO)
        assert [found.path.name for found in datasets(file, {}, None)] == ["good.jsonl", "best.jsonl"]
        for ask in (lambda: dataset(file, {}, None), lambda: load(file, {}, FLAGS)):
            with pytest.raises(ConfigError, match="several are configured") as caught:
                ask()
            assert "best.jsonl" in caught.value.hint


class TestWrong:
    """Every bad key is named, with the number of its dataset."""

    def test_all_that_is_wrong_is_named_once(self, file: Path) -> None:
        """Errors in shared tables, too."""
        text = complaint(
            file,
            """
            records = { min_turn = 5, max_turn = 3 }
            [[dataset]]
            path = "a.jsonl"
            qualify.were = "1"
            [[dataset]]
            path = "b.jsonl"
            source.shards = "x"
            near = 5
            cap = 3
            caps = 3
            [[dataset]]
            ledger = "c/"
            """,
        )
        assert text.splitlines()[1:] == [
            "  FILE: dataset 1: qualify.were: there is no such key (did you mean where?)",
            "  FILE: dataset 2: source: it is the same for all datasets (write [source] above [[dataset]])",
            "  FILE: dataset 2: near: 5 is not a table (write [dataset.near])",
            "  FILE: dataset 2: cap: 3 is not a list of tables (write [[dataset.cap]])",
            "  FILE: dataset 2: caps: there is no such key (did you mean cap?)",
            '  FILE: dataset 3: ledger: "c/" is not a path to a file',
            '  FILE: dataset 3: path: it is not configured (write path = "NAME.jsonl" below this [[dataset]])',
            "  FILE: records.min_turn: 5 is above max_turn, which is 3",
        ]  # fmt: skip

    def test_what_contradicts_a_table_above_is_named_where_it_stands(self, file: Path) -> None:
        """The entry must change, not the shared table."""
        text = complaint(
            file, '[records]\nmin_turn = 5\n[[dataset]]\npath = "a.jsonl"\n[dataset.records]\nmax_turn = 3\n'
        )
        assert "dataset 1: records.max_turn: 3 is below min_turn, which is 5" in text

    @pytest.mark.parametrize(
        ("other", "place"),
        [
            ('path = "./a.jsonl"', "path"),
            ('path = "a.jsonl.ledger"', "path"),
            ('path = "a.jsonl.dead.jsonl"', "path"),
            ('path = "a-00001.jsonl"', "path"),
            ('path = "b.jsonl"\nledger = "a.jsonl"', "ledger"),
            ('path = "b.jsonl"\nledger = "a.jsonl.ledger"', "ledger"),
            ('path = "b.jsonl"\nledger = "a.jsonl.lock"', "ledger"),
        ],
    )
    def test_datasets_that_share_a_file_are_refused(self, file: Path, other: str, place: str) -> None:
        """One would overwrite the lines of the other."""
        text = complaint(file, f'[[dataset]]\npath = "a.jsonl"\n[[dataset]]\n{other}\n')
        assert f"FILE: dataset 2: {place}: " in text
        assert "would be mixed up with" in text

    @pytest.mark.parametrize(("text", "said"), [("dataset = []", "it is empty"), ("dataset = [1]", "1 is not a table")])
    def test_a_list_of_something_else_is_none(self, file: Path, text: str, said: str) -> None:
        """As it is with every table."""
        assert said in complaint(file, text)


def test_another_list_of_datasets_does_not_change_those_that_stay(file: Path) -> None:
    """The daemon reports added and removed datasets; the files excluded from the shards stay the same."""
    good, _ = loaded(file, TWO)
    (alone,) = loaded(file, '[qualify]\nwhere = "0"\n[[dataset]]\npath = "good.jsonl"\n')
    live, fixed = changes(good, alone)
    assert live == ["qualify.where", "records.images", "cap"]
    assert fixed == []
    assert reloaded(good, alone).others == good.others
