"""config.toml, environment and flags become one Config, or one error that names all that is wrong."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.config import (
    Batch,
    Config,
    Dataset,
    Flags,
    Join,
    Log,
    LogFormat,
    LogLevel,
    Qualify,
    Source,
    changes,
    dataset,
    load,
    reloaded,
)
from streamer.core.records.key import DedupBy
from streamer.core.verdicts.caps import Cap
from streamer.core.verdicts.join import JoinRule
from streamer.core.verdicts.near.rules import Near
from streamer.core.verdicts.qualify import Images, RecordRules
from streamer.core.verdicts.turns import TurnRules, Turns

EXAMPLE = Path(__file__).parents[2] / "streamer" / "commands" / "install_service" / "units" / "config.toml"
FLAGS = Flags(shards="s", database="d.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a config file that a test may write."""
    return tmp_path / "config.toml"


def loaded(file: Path, text: str, environ: dict[str, str] | None = None, flags: Flags = FLAGS) -> Config:
    """Write a config file and load it."""
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {}, flags)


def complaint(file: Path, text: str, flags: Flags = FLAGS) -> str:
    """Return the error of an invalid config file."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, flags=flags)
    return str(caught.value)


class TestDefaults:
    """The defaults."""

    def test_shards_and_database_are_all_that_is_needed(self) -> None:
        """Two flags make a whole configuration."""
        config = load(None, {}, FLAGS)
        assert config == Config(
            source=Source(shards=Path("s"), database="d.db"),
            dataset=Dataset(path=Path("high_reward.jsonl"), ledger=Path("high_reward.jsonl.ledger")),
        )

    def test_the_documented_values_are_the_defaults(self) -> None:
        """Each default is the one that the documentation gives."""
        config = load(None, {}, FLAGS)
        assert config.source.max_line_bytes == 64 * 1024 * 1024
        assert config.join == Join(rule=JoinRule.AS_OF, never_scored_after=86_400.0)
        assert config.qualify.where == "total_reward > 0"
        assert config.batch == Batch(records=2000, milliseconds=50)
        assert config.log == Log(level=LogLevel.INFO, format=LogFormat.AUTO)

    def test_an_empty_file_changes_nothing(self, file: Path) -> None:
        """A file without a word is a file."""
        assert loaded(file, "") == load(None, {}, FLAGS)

    def test_a_configuration_cannot_be_changed(self) -> None:
        """Config is frozen."""
        with pytest.raises(AttributeError):
            load(None, {}, FLAGS).qualify = Qualify()  # type: ignore[misc]


class TestExample:
    """The config.toml of the repository."""

    def test_the_example_as_it_stands_is_the_defaults(self) -> None:
        """`--config config.toml` is the same as no file at all."""
        assert load(EXAMPLE, {}, FLAGS) == load(None, {}, FLAGS)

    def test_the_example_leaves_shards_and_database_to_the_environment(self) -> None:
        """Neither is set in the example."""
        config = load(EXAMPLE, {"SFT_OUTPUT_DIR": "out", "SQLD_DB_PATH": "t.db"}, Flags())
        assert (config.source.shards, config.source.database) == (Path("out"), "t.db")

    def test_every_key_stands_in_the_example(self) -> None:
        """A key that the example does not show would never be found."""
        keys = set()
        for table, body in re.findall(r"^\[(\w+)\](.*?)(?=^\[|\Z)", EXAMPLE.read_text(), re.MULTILINE | re.DOTALL):
            keys |= {f"{table}.{key}" for key in re.findall(r"^(?:# )?(\w+) = ", body, re.MULTILINE)}
        config = msgspec.to_builtins(load(None, {}, FLAGS), builtin_types=[], enc_hook=str)
        del config["source"]["token"], config["web"]["token"]  # they are no keys: a file is no place for them
        assert keys == {f"{table}.{key}" for table, values in config.items() for key in values}

    def test_the_commented_keys_work_when_they_are_uncommented(self, file: Path) -> None:
        """Taking the `# ` away is all that has to be done; but that rewards ask for turns, and buckets for a fleet."""
        text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
        text = text.replace('turns = "all"', 'turns = "rewarded"').replace('kind = "local"', 'kind = "jetstream"')
        token = file.with_name("web-token")
        token.write_text("0123456789abcdef\n")
        token.chmod(0o600)
        config = loaded(file, text, flags=Flags())
        assert config.source.shards == file.parent / "ft_data"
        assert config.dataset.ledger == file.parent / "high_reward.jsonl.ledger"
        assert config.records == RecordRules(
            min_turn=0, max_turn=100, turns=Turns.REWARDED, reward_type="achievement_delta", min_turn_reward=1.0
        )

    def test_the_conditions_that_the_example_offers_are_taken(self, file: Path) -> None:
        """The indented alternatives are TOML, too."""
        offered = re.findall(r"^#   (where = .*)$", EXAMPLE.read_text(), re.MULTILINE)
        assert len(offered) == 2
        for line in offered:
            expected = tomllib.loads(line)["where"]
            assert loaded(file, f"[qualify]\n{line}").qualify.where == expected


class TestPrecedence:
    """Flags over environment over file."""

    TEXT = """
        source = {shards = "file", database = "file.db"}
        dataset.path = "file.jsonl"
        qualify.where = "1"
    """
    ENVIRON = {  # noqa: RUF012 - no test writes to it
        "TASKAPP_SFT_OUTPUT_DIR": "env",
        "TURSO_LOCAL_DB_URL": "env.db",
        "STREAMER_DATASET": "env.jsonl",
        "STREAMER_WHERE": "2",
    }

    @staticmethod
    def picked(config: Config) -> tuple[str, str, str, str]:
        """Return the four values that can be said in three places."""
        shards, path = config.source.shards.name, config.dataset.path.name
        return shards, Path(config.source.database).name, path, config.qualify.where

    def test_the_file_counts_where_nothing_else_is_said(self, file: Path) -> None:
        """The lowest layer."""
        assert self.picked(loaded(file, self.TEXT, {}, Flags())) == ("file", "file.db", "file.jsonl", "1")

    def test_the_environment_overrides_the_file(self, file: Path) -> None:
        """The middle layer."""
        config = loaded(file, self.TEXT, self.ENVIRON, Flags())
        assert self.picked(config) == ("env", "env.db", "env.jsonl", "2")

    def test_flags_override_the_environment(self, file: Path) -> None:
        """The highest layer."""
        flags = Flags(shards="flag", database="flag.db", dataset="flag.jsonl", where="3")
        config = loaded(file, self.TEXT, self.ENVIRON, flags)
        assert self.picked(config) == ("flag", "flag.db", "flag.jsonl", "3")

    def test_an_empty_variable_counts_as_unset(self, file: Path) -> None:
        """`VAR= streamer run` is no configuration."""
        config = loaded(file, self.TEXT, dict.fromkeys(self.ENVIRON, ""), Flags())
        assert self.picked(config) == ("file", "file.db", "file.jsonl", "1")

    def test_the_variables_of_the_producer_count_in_its_own_order(self) -> None:
        """The daemon looks where the task app wrote."""
        environ = {
            "TASKAPP_SFT_OUTPUT_DIR": "first",
            "SFT_OUTPUT_DIR": "second",
            "TURSO_LOCAL_DB_URL": "",
            "SQLD_DB_PATH": "second.db",
            "TASKAPP_TRACE_DB_PATH": "third.db",
        }
        source = load(None, environ, Flags()).source
        assert (source.shards, source.database) == (Path("first"), "second.db")

    def test_the_config_file_can_be_named_by_a_variable(self, file: Path) -> None:
        """STREAMER_CONFIG stands in for --config."""
        file.write_text("[batch]\nrecords = 7")
        assert load(None, {"STREAMER_CONFIG": str(file)}, FLAGS).batch.records == 7

    def test_the_config_flag_overrides_its_variable(self, file: Path) -> None:
        """A named file is the only one that is read."""
        config = load(EXAMPLE, {"STREAMER_CONFIG": str(file)}, FLAGS)
        assert config.batch.records == 2000


class TestPaths:
    """Where a path starts from."""

    def test_a_path_in_the_file_starts_from_the_files_folder(self, file: Path) -> None:
        """A folder with config and data can be used from anywhere."""
        text = '[source]\nshards = "s"\ndatabase = "t/d.db"\n[dataset]\npath = "o.jsonl"\nledger = "l"'
        config = loaded(file, text, flags=Flags())
        folder = file.parent
        assert config.source.shards == folder / "s"
        assert config.source.database == str(folder / "t/d.db")
        assert config.dataset == Dataset(path=folder / "o.jsonl", ledger=folder / "l")

    def test_a_whole_path_stays_as_it_is(self, file: Path) -> None:
        """An absolute path starts from nowhere else."""
        assert loaded(file, '[dataset]\npath = "/data/o.jsonl"').dataset.path == Path("/data/o.jsonl")

    @pytest.mark.parametrize("url", ["sqlite+aiosqlite:///a.db", "http://127.0.0.1:8080", "file:a.db?mode=ro"])
    def test_a_url_stays_as_it_is(self, file: Path, url: str) -> None:
        """A URL is for the reader of the trace database to resolve."""
        assert loaded(file, f'[source]\ndatabase = "{url}"', flags=Flags(shards="s")).source.database == url

    def test_a_tilde_is_the_home_folder_everywhere(self, file: Path) -> None:
        """Neither TOML nor `--flag=~/x` is expanded by a shell."""
        config = loaded(file, '[dataset]\npath = "~/o.jsonl"', flags=Flags(shards="~/s", database="~/d.db"))
        assert config.dataset.path == Path.home() / "o.jsonl"
        assert config.source == Source(shards=Path.home() / "s", database=str(Path.home() / "d.db"))

    def test_a_tilde_of_nobody_is_a_name(self) -> None:
        """A user that does not exist has no home, and the path stays."""
        assert load(None, {}, Flags("~no-such-user/s", "d.db")).source.shards == Path("~no-such-user/s")

    def test_the_ledger_lies_beside_the_dataset(self, file: Path) -> None:
        """Its name is the dataset's, with .ledger."""
        config = loaded(file, "", {"STREAMER_DATASET": "/data/o.jsonl"})
        assert config.dataset.ledger == Path("/data/o.jsonl.ledger")

    def test_a_ledger_that_the_file_names_is_not_used_for_another_dataset(self, file: Path) -> None:
        """A flag that names another dataset must not mix two ledgers."""
        text = '[dataset]\npath = "o.jsonl"\nledger = "/data/l"'
        other = loaded(file, text, flags=msgspec.structs.replace(FLAGS, dataset="other.jsonl"))
        same = loaded(file, text, flags=msgspec.structs.replace(FLAGS, dataset=str(file.parent / "o.jsonl")))
        assert other.dataset.ledger == Path("other.jsonl.ledger")
        assert same.dataset.ledger == Path("/data/l")


class TestValues:
    """The values of each key."""

    @pytest.mark.parametrize(
        ("raw", "seconds"),
        [
            ("5", 5),
            ("0.5", 0.5),
            ('"250ms"', 0.25),
            ('"5s"', 5),
            ('"1.5m"', 90),
            ('"24h"', 86_400),
            ('"7 d"', 604_800),
        ],
    )
    def test_a_duration_is_seconds_or_a_text_with_a_unit(self, file: Path, raw: str, seconds: float) -> None:
        """Both spellings give seconds."""
        assert loaded(file, f"[join]\nnever_scored_after = {raw}").join.never_scored_after == seconds

    @pytest.mark.parametrize(
        ("raw", "size"),
        [
            ("4096", 4096),
            ('"64MiB"', 64 << 20),
            ('"10MB"', 10_000_000),
            ('"1GiB"', 1 << 30),
            ('"1.5 kib"', 1536),
        ],
    )
    def test_a_size_is_bytes_or_a_text_with_a_unit(self, file: Path, raw: str, size: int) -> None:
        """Both spellings give bytes."""
        assert loaded(file, f"[source]\nmax_line_bytes = {raw}").source.max_line_bytes == size

    def test_records_are_narrowed_by_model_images_and_turn(self, file: Path) -> None:
        """The table becomes the rules that qualify works with."""
        text = '[records]\nmodels = ["a", "b"]\nimages = "with"\nmin_turn = 0\nmax_turn = 3'
        rules = RecordRules(models=("a", "b"), images=Images.WITH, min_turn=0, max_turn=3)
        assert loaded(file, text).records == rules

    def test_turns_are_chosen_by_their_reward(self, file: Path) -> None:
        """Event rewards are read where turns are chosen, or a type is named; else nothing is."""
        assert loaded(file, "").records.turn_rules is None
        assert loaded(file, '[records]\nturns = "all"').records.turn_rules is None
        for text, rules in (
            ('turns = "rewarded"', TurnRules(Turns.REWARDED, "achievement_delta")),
            ('turns = "until_last_reward"\nreward_type = "sparse"\nmin_turn_reward = 2',
             TurnRules(Turns.UNTIL_LAST_REWARD, "sparse", 2.0)),
            ('reward_type = "human"', TurnRules(Turns.ALL, "human")),
        ):  # fmt: skip
            assert loaded(file, f"[records]\n{text}").records.turn_rules == rules

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ('turns = "best"', r'records\.turns: "best" is not one of "all", "rewarded", "until_last_reward"'),
            ("reward_type = 1", r"records\.reward_type"),
            ('reward_type = " "', r"records\.reward_type"),
            ('reward_type = "a\\u001bb"', r"records\.reward_type"),
            ('turns = "rewarded"\nmin_turn_reward = nan', r"records\.min_turn_reward: nan is not a number"),
            ('turns = "rewarded"\nmin_turn_reward = inf', r"records\.min_turn_reward"),
            ('turns = "rewarded"\nmin_turn_reward = true', r"records\.min_turn_reward"),
            ("min_turn_reward = 1", r'min_turn_reward: it has nothing to say where records\.turns is "all"'),
        ],
    )
    def test_what_would_choose_no_turns_is_refused(self, file: Path, text: str, place: str) -> None:
        """The message names the key and the allowed values."""
        with pytest.raises(ConfigError, match=place):
            loaded(file, f"[records]\n{text}")

    def test_near_duplicates_are_told_by_texts_or_images(self, file: Path) -> None:
        """Either of the two turns it on."""
        assert not loaded(file, "[near]\nngram = 3").near.is_on
        assert loaded(file, "[near]\nthreshold = 1").near == Near(threshold=1.0)
        assert loaded(file, "[near]\nimages = 0").near.is_on

    def test_there_may_be_any_number_of_caps(self, file: Path) -> None:
        """In the order of the file."""
        text = '[[cap]]\nby = "metadata.env_seed"\nmost = 20\n[[cap]]\nmost = 1\nby = "prompt"'
        assert loaded(file, text).cap == (Cap("metadata.env_seed", 20), Cap("prompt", 1))

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("cap = 5", r"cap: 5 is not a list of tables.*\n?.*\[\[cap\]\]"),
            ("cap = [5]", "cap: a list is not a list of tables"),
            ('[cap]\nby = "prompt"\nmost = 1', "cap: a table is not a list of tables"),
            ('[[cap]]\nby = "prompt"', r"cap 1\.most: it is not configured"),
            ("[[cap]]\nmost = 1", r"cap 1\.by: it is not configured"),
            ('[[cap]]\nby = "prompt"\nmost = 1\n[[cap]]\nby = "prompt"\nmost = 2', r"cap 2\.by: .*has a cap already"),
            ('[[cap]]\nby = "prompt"\nmost = 0', r"cap 1\.most: 0 is not a whole number from 1"),
            ('[[cap]]\nby = "seed"\nmost = 1', r"cap 1\.by: .*metadata\.env_seed"),
            ('[[cap]]\nby = "metadata."\nmost = 1', r"cap 1\.by: "),
            ('[[cap]]\nby = "metadata.\\u001b[2J"\nmost = 1', r"cap 1\.by: .*\\x1b"),
            ('[[cap]]\nby = "prompt"\nmost = 1\nmots = 2', r"cap 1\.mots: there is no such key.*\n?.*mean most"),
        ],
    )
    def test_a_wrong_cap_is_named_by_its_number_and_key(self, file: Path, text: str, named: str) -> None:
        """The message names the allowed values."""
        with pytest.raises(ConfigError, match=named):
            loaded(file, text)

    def test_a_condition_may_span_lines(self, file: Path) -> None:
        """SQL in a TOML multi-line string is taken without the white space around it."""
        config = loaded(file, '[qualify]\nwhere = """\n  total_reward > 1\n  and total_steps < 9\n"""')
        assert config.qualify.where == "total_reward > 1\n  and total_steps < 9"

    def test_choices_become_enums(self, file: Path) -> None:
        """The pure core compares values with `is`, so they must be the enum's members."""
        config = loaded(file, '[join]\nrule = "max"\n[dedup]\nby = "none"\n[log]\nlevel = "debug"')
        assert config.join.rule is JoinRule.MAX
        assert config.dedup.by is DedupBy.NONE
        assert config.log.level is LogLevel.DEBUG

    @pytest.mark.parametrize(
        "line",
        [
            'source.shards = ""',
            "source.shards = 3",
            'source.shards = "a\\u0000b"',
            'source.pattern = "sub/*.jsonl"',
            "source.database = true",
            'source.force_polling = "yes"',
            "source.force_polling = 1",
            "source.scan_interval = 0",
            "source.scan_interval = -1",
            "source.scan_interval = nan",
            "source.scan_interval = inf",
            "source.scan_interval = true",
            'source.scan_interval = "5"',
            'source.scan_interval = "5 weeks"',
            f'source.scan_interval = "{"9" * 400}s"',
            "source.poll_interval = 0.0001",
            "source.max_line_bytes = 0",
            "source.max_line_bytes = 1.5",
            "source.max_line_bytes = nan",
            'source.max_line_bytes = "64 pages"',
            'join.rule = "AS_OF"',
            "join.rule = []",
            'join.never_scored_after = "0s"',
            'qualify.where = " "',
            'qualify.where = "1\\u0000"',
            "qualify.where = 1",
            'records.models = "gpt"',
            'records.models = [""]',
            "records.models = [1]",
            'records.images = "maybe"',
            "records.min_turn = -1",
            "records.max_turn = 1.0",
            'dedup.by = "hash"',
            "near.threshold = 0.4",
            "near.threshold = 1.01",
            "near.threshold = nan",
            "near.threshold = true",
            "near.ngram = 0",
            'near.scope = "all"',
            "near.images = 33",
            "near.keep = 0",
            "dataset.path = {}",
            'dataset.path = "/"',
            'dataset.path = "folder/"',
            'dataset.path = ".."',
            'dataset.ledger = "~/"',
            "batch.records = 0",
            "batch.records = 2.0",
            "batch.records = true",
            f"batch.records = 0x{'f' * 9000}",
            'batch.milliseconds = "50ms"',
            'log.level = "loud"',
            "log.format = 1979-05-27",
        ],
    )
    def test_a_bad_value_is_named_with_file_key_value_and_what_is_allowed(self, file: Path, line: str) -> None:
        """One line says all that is needed to put it right."""
        key = line.partition(" ")[0]
        text = complaint(file, line)
        assert re.search(rf"{re.escape(str(file))}: {re.escape(key)}: .+ is not (an? |the |one of |true or )", text)

    def test_a_bad_value_is_quoted_as_it_was_written(self, file: Path) -> None:
        """The value is shown, so that it can be searched for."""
        assert '"hash" is not one of "conversation", "prompt", "none"' in complaint(file, 'dedup.by = "hash"')
        assert "true is not a whole number from 1" in complaint(file, "batch.records = true")
        assert "nan is not a number of seconds" in complaint(file, "source.scan_interval = nan")

    def test_a_bad_value_cannot_steer_a_terminal(self, file: Path) -> None:
        """Control characters of values and keys are shown, not obeyed."""
        text = complaint(file, 'dedup.by = "\\u001b[2J\\u202e"\n"a\\u009bb" = 1')
        assert "\\x1b[2J\\u202e" in text
        assert "a\\x9bb" in text
        assert not set(text) & {"\x1b", "\x9b", "\u202e"}


class TestProblems:
    """Messages about an invalid configuration."""

    def test_all_bad_keys_are_named_at_once(self, file: Path) -> None:
        """One run of the daemon is enough to find them all."""
        text = complaint(file, "batch.records = 0\nlog.level = 1\nqualify.wehre = 's'", Flags())
        keys = ["batch.records:", "log.level:", "qualify.wehre:", "source.shards:", "source.database:"]
        assert [line.strip().removeprefix(f"{file}: ").split()[0] for line in text.splitlines()[1:]] == keys

    def test_a_misspelt_key_is_named_with_the_nearest_one(self, file: Path) -> None:
        """A key that no one reads must not silently change nothing."""
        assert "did you mean where?" in complaint(file, "qualify.wehre = '1'")

    def test_a_misspelt_table_is_named_with_the_nearest_one(self, file: Path) -> None:
        """The same for tables."""
        assert "did you mean qualify?" in complaint(file, "[quallify]\nwhere = '1'")

    def test_a_key_of_another_table_is_named_with_that_table(self, file: Path) -> None:
        """`where` at the top of the file is a likely slip."""
        assert "did you mean qualify.where?" in complaint(file, "where = '1'")
        assert "did you mean source.poll_interval?" in complaint(file, "[batch]\npoll_interval = 1")

    def test_a_key_like_no_other_is_answered_with_the_known_ones(self, file: Path) -> None:
        """Where nothing is near, everything is shown."""
        assert "known are records, milliseconds" in complaint(file, "batch.zzz = 1")

    @pytest.mark.parametrize("text", ["source = 3", "[[source]]\nshards = 's'"])
    def test_a_table_that_is_none_is_named(self, file: Path, text: str) -> None:
        """A value or a list of tables is no table."""
        assert "source: " in complaint(file, text)
        assert "is not a table" in complaint(file, text)

    def test_a_syntax_error_names_line_and_column(self, file: Path) -> None:
        """The place is where an editor can go to."""
        assert re.search(r"config\.toml: it is not TOML: .*line 2, column \d+", complaint(file, "a = 1\nb = = 2"))

    def test_a_file_that_is_not_utf8_names_the_line(self, file: Path) -> None:
        """Latin-1 is a likely slip."""
        file.write_bytes(b"# fine\n# caf\xe9\n")
        with pytest.raises(ConfigError, match=r"not UTF-8 \(at line 2\)"):
            load(file, {}, FLAGS)

    def test_a_byte_order_mark_does_no_harm(self, file: Path) -> None:
        """Some editors write one."""
        file.write_bytes(b"\xef\xbb\xbf[batch]\nrecords = 3")
        assert load(file, {}, FLAGS).batch.records == 3

    @pytest.mark.parametrize("text", [f"a = {'[' * 9999}", f"a = {'9' * 9999}"])
    def test_toml_that_overwhelms_its_parser_is_an_error_like_any_other(self, file: Path, text: str) -> None:
        """Depth and length that Python itself refuses."""
        assert "it is not TOML" in complaint(file, text)

    def test_a_missing_file_is_named(self, file: Path) -> None:
        """A named file has to be there, from a flag as from the variable."""
        for named, environ in ((file, {}), (None, {"STREAMER_CONFIG": str(file)})):
            with pytest.raises(ConfigError, match="there is no such file") as caught:
                load(named, environ, FLAGS)
            assert caught.value.where == str(file)

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        """The system's own words are passed on."""
        with pytest.raises(ConfigError, match="Is a directory"):
            load(tmp_path, {}, FLAGS)

    @pytest.mark.parametrize(
        ("flags", "ways"),
        [
            (Flags(database="d"), ("--shards", "TASKAPP_SFT_OUTPUT_DIR", "SFT_OUTPUT_DIR", "[source]")),
            (
                Flags(shards="s"),
                ("--database", "TURSO_LOCAL_DB_URL", "SQLD_DB_PATH", "TASKAPP_TRACE_DB_PATH"),
            ),
        ],
    )
    def test_what_is_not_configured_is_told_with_every_way_to_do_so(self, flags: Flags, ways: tuple[str, ...]) -> None:
        """Flag, variables and key."""
        with pytest.raises(ConfigError, match="it is not configured") as caught:
            load(None, {}, flags)
        assert all(way in caught.value.hint for way in ways)

    def test_a_bad_value_is_not_called_missing_too(self, file: Path) -> None:
        """One slip, one line."""
        assert "not configured" not in complaint(file, "source.shards = 3", Flags(database="d"))

    def test_a_bad_flag_or_variable_is_named_as_such(self) -> None:
        """The file is not to blame."""
        with pytest.raises(ConfigError) as caught:
            load(None, {"STREAMER_WHERE": "\udcff", "SFT_OUTPUT_DIR": " "}, Flags(database=""))
        text = str(caught.value)
        assert 'STREAMER_WHERE: "\\udcff" is not an SQL condition' in text
        assert 'SFT_OUTPUT_DIR: " " is not a path' in text
        assert '--database: "" is not the path' in text

    def test_the_error_ends_a_command_with_status_2(self) -> None:
        """The unit file relies on it, so as not to restart for nothing."""
        with pytest.raises(ConfigError) as caught:
            load(None, {}, Flags())
        assert caught.value.exit_code == 2


class TestTogether:
    """Values that are fine alone."""

    def test_turns_have_to_be_in_order(self, file: Path) -> None:
        """A range that no turn is in would leave everything out."""
        assert "records.min_turn: 5 is above max_turn, which is 4" in complaint(
            file, "records = {min_turn = 5, max_turn = 4}"
        )

    @pytest.mark.parametrize("ledger", ["o.jsonl", "./x/../o.jsonl", "o.jsonl.lock"])
    def test_a_ledger_is_another_file_than_dataset_and_lock(self, file: Path, ledger: str) -> None:
        """One of the two would overwrite the other."""
        text = f'[dataset]\npath = "o.jsonl"\nledger = "{ledger}"'
        assert "is the dataset itself, or its lock" in complaint(file, text)

    def test_links_that_go_in_a_circle_are_left_to_whoever_opens_them(self, tmp_path: Path) -> None:
        """The configuration does not stumble over them."""
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        loop = tmp_path / "a"
        assert load(None, {}, Flags(str(loop), "d.db", dataset=str(loop))).dataset.path == loop


class TestDatasetOnly:
    """Commands that need nothing but the dataset."""

    def test_neither_shards_nor_database_have_to_be_configured(self, file: Path) -> None:
        """`streamer status` on another shell has neither variable."""
        file.write_text('[dataset]\npath = "o.jsonl"')
        assert dataset(None, {}, None).path == Path("high_reward.jsonl")
        assert dataset(file, {}, None).path == file.parent / "o.jsonl"
        assert dataset(file, {"STREAMER_DATASET": "e.jsonl"}, None).path == Path("e.jsonl")
        assert dataset(file, {"STREAMER_DATASET": "e.jsonl"}, "f.jsonl").path == Path("f.jsonl")

    def test_the_ledger_is_the_one_that_the_daemon_uses(self, file: Path) -> None:
        """A command has to look into the same ledger."""
        file.write_text('[dataset]\nledger = "l"')
        assert dataset(file, {}, "f.jsonl") == load(file, {}, Flags("s", "d.db", "f.jsonl")).dataset

    def test_a_bad_file_is_an_error_here_too(self, file: Path) -> None:
        """A misspelt path would show another dataset than the daemon's."""
        file.write_text('[dataset]\npth = "o.jsonl"')
        with pytest.raises(ConfigError, match=r"did you mean path\?"):
            dataset(file, {}, None)


class TestChanges:
    """The keys that a reload can change."""

    NEW = """
        source.poll_interval = 1
        join = {rule = "max", never_scored_after = "1h"}
        qualify.where = "1"
        records.models = ["a"]
        dedup.by = "prompt"
        near.threshold = 0.9
        cap = [{by = "prompt", most = 3}]
        dataset.path = "/data/o.jsonl"
        batch.records = 1
        log = {level = "error", format = "json"}
    """

    def test_the_same_configuration_has_no_changes(self) -> None:
        """A reload without an edit does nothing."""
        assert changes(load(None, {}, FLAGS), load(EXAMPLE, {}, FLAGS)) == ([], [])

    def test_every_key_that_differs_is_named_with_what_can_be_done(self, file: Path) -> None:
        """Some take effect at once, the others with a restart."""
        live, fixed = changes(load(None, {}, FLAGS), loaded(file, self.NEW))
        assert sorted(live) == [
            "batch.records",
            "cap",
            "join.never_scored_after",
            "join.rule",
            "log.level",
            "qualify.where",
            "records.models",
        ]
        assert sorted(fixed) == [
            "dataset.ledger",
            "dataset.path",
            "dedup.by",
            "log.format",
            "near.threshold",
            "source.poll_interval",
        ]

    def test_a_reloaded_configuration_has_all_that_can_change_and_nothing_else(self, file: Path) -> None:
        """Other keys keep the values of the daemon's start."""
        old, new = load(None, {}, FLAGS), loaded(file, self.NEW)
        merged = reloaded(old, new)
        assert changes(old, merged) == (changes(old, new)[0], [])
        assert changes(merged, new) == ([], changes(old, new)[1])


KEYS = [
    f"{table.name}.{key}"
    for table in msgspec.structs.fields(Config)
    for key in getattr(table.type, "__struct_fields__", ())
]
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8")),
    st.sampled_from(["5s", "1GiB", "max", "none", "any", "debug", "~", "~root/x", "/", "\0", "a://b", "9" * 999 + "d"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value)
    if isinstance(value, str):
        # JSON writes what is beyond U+FFFF as two escapes, which TOML does not know, and leaves DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text


def survives(file: Path, text: str) -> None:
    """Load a file; anything but a Config or a ConfigError that can be shown fails the test."""
    try:
        said = str(loaded(file, text))
    except ConfigError as error:
        said = str(error)
    assert all(printable(line) == line for line in said.split("\n"))


class TestAnything:
    """Any content of the file."""

    @settings(deadline=None)
    @given(text=st.text(st.characters(codec="utf-8")))
    def test_any_text_is_a_configuration_or_a_config_error(
        self, tmp_path_factory: pytest.TempPathFactory, text: str
    ) -> None:
        """No traceback for broken TOML."""
        survives(tmp_path_factory.getbasetemp() / "any.toml", text)

    @settings(deadline=None)
    @given(values=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
    def test_any_value_of_any_key_is_taken_or_a_config_error(
        self, tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
    ) -> None:
        """No traceback for any valid TOML."""
        text = "\n".join(f"{key} = {toml(value)}" for key, value in values.items())
        tomllib.loads(text)
        survives(tmp_path_factory.getbasetemp() / "values.toml", text)

    @pytest.mark.slow
    @settings(deadline=None)
    @given(key=st.text(st.characters(codec="utf-8")), value=VALUES)
    def test_any_key_is_known_or_a_config_error(
        self, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
    ) -> None:
        """No traceback for keys that no one has thought of, at either depth."""
        file = tmp_path_factory.getbasetemp() / "keys.toml"
        survives(file, f"{toml(key)} = {toml(value)}")
        survives(file, f"batch.{toml(key)} = {toml(value)}")


class TestPage:
    """The address of the web UI, and its token."""

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("127.0.0.1:8765", "127.0.0.1", 8765),
            ("127.1.2.3:1", "127.1.2.3", 1),
            ("[::1]:0", "::1", 0),
            ("LocalHost:80", "localhost", 80),
        ],
    )
    def test_an_address_of_this_machine_needs_no_token(self, file: Path, text: str, host: str, port: int) -> None:
        """Other machines cannot reach it."""
        listen = loaded(file, f'[web]\nlisten = "{text}"').web.listen
        assert listen is not None
        assert (listen.host, listen.port) == (host, port)

    @pytest.mark.parametrize("text", ["0.0.0.0:8765", "[::]:8765", "192.168.1.4:8765", "trainer1:8765"])
    def test_any_other_address_needs_one(self, file: Path, text: str) -> None:
        """It is refused at start, with the way to make a token."""
        said = complaint(file, f'[web]\nlisten = "{text}"')
        assert text in said
        assert "web.token_file" in said

    @pytest.mark.parametrize(
        "value", ["8765", '"8765"', '"127.0.0.1"', '"127.0.0.1:65536"', '"::1:8765"', '"[x]:1"', '""', '"a b:1"']
    )
    def test_what_is_no_address_is_named(self, file: Path, value: str) -> None:
        """With some that would be."""
        said = complaint(file, f"[web]\nlisten = {value}")
        assert "web.listen" in said
        assert "127.0.0.1:8765" in said

    def test_a_token_comes_from_a_file_or_from_systemd(self, file: Path) -> None:
        """The file wins; nothing shows it."""
        for name, token in (("mine", "m" * 16), ("web-token", "s" * 16)):
            path = file.with_name(name)
            path.write_text(f"{token}\n")
            path.chmod(0o600)
        listen, credentials = '[web]\nlisten = "0.0.0.0:1"\n', {"CREDENTIALS_DIRECTORY": str(file.parent)}
        config = loaded(file, listen, credentials)
        assert config.web.token.reveal() == "s" * 16
        assert "s" * 16 not in repr(config)
        assert loaded(file, f'{listen}token_file = "mine"', credentials).web.token.reveal() == "m" * 16

    @pytest.mark.parametrize(
        ("content", "mode", "named"),
        [
            (b"too short", 0o600, "16"),
            (b"two words are not one", 0o600, "one word"),
            (b"", 0o600, "16"),
            (b"\xff" * 20, 0o600, "ASCII"),
            (b"x" * 5000, 0o600, "4,096"),
            (b"x" * 20, 0o644, "chmod"),
        ],
    )
    def test_a_token_that_is_none_is_refused(self, file: Path, content: bytes, mode: int, named: str) -> None:
        """Its content is not shown."""
        token = file.with_name("token")
        token.write_bytes(content)
        token.chmod(mode)
        said = complaint(file, '[web]\nlisten = "127.0.0.1:1"\ntoken_file = "token"')
        assert named in said
        assert "xxxx" not in said

    def test_a_token_file_that_is_missing_is_named(self, file: Path) -> None:
        """But only if the web UI is on."""
        assert "No such file" in complaint(file, '[web]\nlisten = "127.0.0.1:1"\ntoken_file = "nowhere"')
        assert loaded(file, '[web]\ntoken_file = "nowhere"').web.listen is None


class TestFleet:
    """Collectors and writers of a fleet."""

    SERVERS = '[fleet]\nservers = ["nats://one:4222", "tls://two:4222"]\ndataset = "crafter"\n'

    def test_a_writer_needs_neither_shards_nor_database(self, file: Path) -> None:
        """Its records have qualified elsewhere."""
        config = loaded(file, f'[source]\nkind = "jetstream"\nbuckets = "0-2, 7"\n{self.SERVERS}', flags=Flags())
        assert config.source.buckets == frozenset({0, 1, 2, 7})
        assert not config.source.reads_shards
        assert config.fleet.servers == ("nats://one:4222", "tls://two:4222")

    @pytest.mark.parametrize("table", ["sink", "source"])
    def test_a_fleet_has_servers_and_a_dataset(self, file: Path, table: str) -> None:
        """Both are named at once when they are missing."""
        said = complaint(file, f'[{table}]\nkind = "jetstream"\n')
        assert "write servers under [fleet]" in said
        assert "write dataset under [fleet]" in said

    def test_a_writer_is_no_collector(self, file: Path) -> None:
        """Records would go round in a circle."""
        said = complaint(file, f'[source]\nkind = "jetstream"\n[sink]\nkind = "jetstream"\n{self.SERVERS}')
        assert 'sink.kind: source.kind is "jetstream", too' in said

    def test_buckets_are_of_a_fleet(self, file: Path) -> None:
        """Elsewhere they would say nothing."""
        assert "there are buckets only in a fleet" in complaint(file, '[source]\nbuckets = "0-3"\n')

    @pytest.mark.parametrize("buckets", ["", "4-2", "a", "0-9999", "1,,2", "-1"])
    def test_buckets_are_numbers(self, file: Path, buckets: str) -> None:
        """An invalid one is named."""
        assert "is not numbers of buckets" in complaint(file, f'[source]\nbuckets = "{buckets}"\n')

    @pytest.mark.parametrize("name", ["ask", "a.b", "a*", "", "a b", "x" * 65])
    def test_a_name_is_one_that_a_subject_can_have(self, file: Path, name: str) -> None:
        """Dots and wildcards would make it another subject."""
        assert "letters, digits" in complaint(file, f'[fleet]\ndataset = "{name}"\n')

    @pytest.mark.parametrize("server", ["one:4222", "http://one", "nats://", "nats://one:x", "nats://one\\n"])
    def test_a_server_is_an_address_of_nats(self, file: Path, server: str) -> None:
        """Others would be found only when they are needed."""
        assert "is not a list of servers" in complaint(file, f'[fleet]\nservers = ["{server}"]\n')
