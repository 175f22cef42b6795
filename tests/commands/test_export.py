"""Exports: what is taken, what is left out and why, and what stands in the folder afterwards."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.base.errors import ConfigError, LockedError, MissingExtraError, RefusedError, UnavailableError
from streamer.base.files import Files
from streamer.commands.export.lines import Lines
from streamer.commands.export.metadata import COLUMNS, columns_of
from streamer.commands.export.options import ImageMode, Split, parse_splits, read_tools
from streamer.commands.export.output import REPORT, ExportFolder
from streamer.commands.export.run import EXCLUDED
from streamer.core.records.schema import METADATA_KEYS
from tests.helpers.exports import CALL, TOOLS, chat, image, lines, record, rollouts, run, tree, write
from tests.helpers.producer import add_outcome, dialogue, jsonl, make_traces, settings, work_off

HALVES = (Split("train", 0.5), Split("test", 0.5))
PATIENCE = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset is."""
    return tmp_path / "good.jsonl"


def call(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command through the executable."""
    command = [sys.executable, "-m", "streamer", "export", *map(str, arguments)]
    home = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STREAMER")}
    return subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(home)}, check=False, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip


def runs(values: list[Any]) -> set[str]:
    """Return the run ids of records."""
    return {value["metadata"]["run_id"] for value in values}


# -- what is taken -----------------------------------------------------------------------------------------


def test_lines_are_those_of_the_dataset_byte_for_byte(path: Path) -> None:
    """Spaces, escapes and unknown keys of messages, too."""
    odd = (
        b'{ "messages": [{"role":"assistant","content":"\\u00e9","odd":1}], "metadata": %s}\n'
        % json.dumps(record()["metadata"]).encode()
    )
    write(path, record(), odd, record(turn=2, images=(image(),)))
    folder, report = run(path, "jsonl")
    assert (folder / "train.jsonl").read_bytes() == path.read_bytes()
    assert report.written == 3
    assert report.excluded == {}


def test_no_rollout_is_in_two_splits_and_none_is_lost(path: Path) -> None:
    """A split is one of rollouts, not of records."""
    write(path, *rollouts(40))
    folder, report = run(path, "jsonl", splits=HALVES)
    train, test = lines(folder / "train.jsonl"), lines(folder / "test.jsonl")
    assert not runs(train) & runs(test)
    assert len(runs(train) | runs(test)) == 40
    assert len(train) + len(test) == 120
    assert [split.records for split in report.splits] == [len(train), len(test)]
    assert [split.rollouts for split in report.splits] == [len(runs(train)), len(runs(test))]


def test_a_rollout_stays_in_its_split_when_the_dataset_grows(path: Path) -> None:
    """And whatever stands before it."""
    write(path, *rollouts(20))
    small, _ = run(path, "jsonl", splits=HALVES)
    write(path, record("new"), *reversed(rollouts(60)))
    large, _ = run(path, "jsonl", splits=HALVES)
    for name in ("train.jsonl", "test.jsonl"):
        assert runs(lines(small / name)) == runs(lines(large / name)) & {f"run-{i}" for i in range(20)}


def test_shares_are_met_in_the_mean_and_another_seed_divides_otherwise(path: Path) -> None:
    """As the hash of a run id is uniform."""
    write(path, *rollouts(2000, turns=1))
    splits = (Split("train", 0.8), Split("validation", 0.1), Split("test", 0.1))
    folder, report = run(path, "jsonl", splits=splits)
    assert [split.rollouts for split in report.splits] == pytest.approx([1600, 200, 200], abs=60)
    other, _ = run(path, "jsonl", splits=splits, seed=1)
    assert runs(lines(folder / "test.jsonl")) != runs(lines(other / "test.jsonl"))


def test_records_without_a_run_id_are_rollouts_of_their_own(path: Path) -> None:
    """Nothing says that they belong together."""
    write(path, *(record(None, turn) for turn in range(40)))
    _, report = run(path, "jsonl", splits=HALVES)
    assert sum(split.rollouts for split in report.splits) == 40
    assert all(split.rollouts == split.records for split in report.splits)


def test_a_split_that_no_rollout_fell_into_has_no_file_and_is_told(path: Path) -> None:
    """An empty file is one that `datasets` cannot load."""
    write(path, record())
    folder, report = run(path, "jsonl", splits=HALVES)
    assert len(list(folder.glob("t*.jsonl"))) == 1
    assert len(report.splits) == 1
    assert "no rollout fell into it" in report.warnings[0]


def test_the_top_rollouts_come_with_all_their_records(path: Path) -> None:
    """A rollout has one reward: all its records are in, or none."""
    write(path, *rollouts(10))
    folder, report = run(path, "jsonl", top_rollouts=2)
    assert runs(lines(folder / "train.jsonl")) == {"run-9", "run-8"}
    assert report.written == 6
    assert report.excluded == {"below_top": 24}


def test_a_run_id_that_was_used_twice_is_two_rollouts_for_the_top(path: Path) -> None:
    """The good one does not pull the other one along."""
    write(path, record("a", 0, 1), record("a", 1, 9), record("b", 0, 5))
    folder, report = run(path, "jsonl", top_rollouts=2)
    assert [value["metadata"]["total_reward"] for value in lines(folder / "train.jsonl")] == [9, 5]
    assert report.excluded == {"below_top": 1}


def test_of_rollouts_with_equal_reward_the_seed_decides(path: Path) -> None:
    """Not the order in which they came."""
    values = [record(f"run-{i}", 0, 1) for i in range(30)]
    chosen = []
    for order, seed in ((values, 0), (values[::-1], 0), (values, 1)):
        folder, _ = run(write(path, *order), "jsonl", top_rollouts=5, seed=seed)
        chosen.append(runs(lines(folder / "train.jsonl")))
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_record_without_a_reward_is_not_ranked(path: Path) -> None:
    """It is left out, with a reason of its own; a text is no reward, and is no record either."""
    write(path, record("a", reward=None), record("b", reward=-1))
    folder, report = run(path, "jsonl", top_rollouts=5)
    assert runs(lines(folder / "train.jsonl")) == {"b"}
    assert report.excluded == {"no_reward": 1}


def test_a_sample_is_of_that_size_and_grows_by_addition(path: Path) -> None:
    """The same seed draws the same records; a larger sample holds the smaller one."""
    write(path, *rollouts(30))
    samples = {}
    for size, seed in ((20, 0), (40, 0), (20, 7)):
        folder, report = run(path, "jsonl", sample=size, seed=seed)
        samples[size, seed] = set((folder / "train.jsonl").read_bytes().splitlines())
        assert report.written == len(samples[size, seed]) == size
        assert report.excluded == {"not_sampled": 90 - size}
    assert samples[20, 0] < samples[40, 0]
    assert samples[20, 0] != samples[20, 7]


def test_choices_are_made_one_after_the_other(path: Path) -> None:
    """A sample is drawn from the top rollouts, and each record left out has one reason."""
    write(path, *rollouts(10))
    folder, report = run(path, "jsonl", top_rollouts=4, sample=5)
    assert runs(lines(folder / "train.jsonl")) <= {"run-6", "run-7", "run-8", "run-9"}
    assert report.excluded == {"below_top": 18, "not_sampled": 7}


def test_what_is_no_record_is_counted_listed_and_the_rest_goes_on(path: Path) -> None:
    """What `verify` calls a problem is not exported."""
    bad = [b"nonsense\n", b'"\xff"\n', b"[]\n", b"\n", b'{"messages": [], "metadata": {}}\n']
    write(path, record(), *bad, record(turn=1))
    folder, report = run(path, "jsonl")
    assert report.written == 2
    assert report.excluded == {"bad_metadata": 1, "not_json": 2, "not_object": 1, "not_utf8": 1}
    listed = lines(folder / EXCLUDED)
    assert [(found["line"], found["reason"]) for found in listed] == list(
        enumerate(["not_json", "not_utf8", "not_object", "not_json", "bad_metadata"], 2)
    )
    assert all(path.read_bytes()[found["offset"] :].startswith(line) for found, line in zip(listed, bad, strict=True))


def test_a_line_that_is_too_long_is_passed_over(path: Path) -> None:
    """It is not held in memory, and those after it keep their places."""
    write(path, record(), b'"%s"\n' % (b"x" * 3_000_000), record(turn=1))
    with Lines(path, path.with_name("none"), longest=10_000) as found:
        taken = list(found)
    assert [line.data is None for line in taken] == [False, True, False]
    assert [line.number for line in taken] == [1, 2, 3]
    assert taken[2].data == path.read_bytes()[taken[2].offset :]


def test_without_a_ledger_all_whole_lines_are_taken_and_a_torn_one_is_counted(path: Path) -> None:
    """A copy has no ledger."""
    write(path, record(), b'{"messages": [')
    folder, report = run(path, "jsonl")
    assert report.written == 1
    assert report.excluded == {"unfinished": 1}
    assert lines(folder / EXCLUDED)[0]["line"] == 2


def dataset_of_a_daemon(tmp_path: Path) -> Path:
    """Let a pipeline make a dataset with its ledger."""
    config = settings(tmp_path)
    (tmp_path / "shards").mkdir()
    make_traces(tmp_path / "traces.db")
    for name in ("a", "b"):
        add_outcome(tmp_path / "traces.db", name, 2, 9)
        (tmp_path / "shards" / f"{name}.jsonl").write_bytes(jsonl(*(dialogue(name, i, f"{name}{i}") for i in range(3))))
    work_off(config)
    return config.dataset.path


def test_with_a_ledger_what_is_committed_is_taken_and_no_more(tmp_path: Path) -> None:
    """A daemon may be in the middle of a batch; the card says by what rule it took records."""
    path = dataset_of_a_daemon(tmp_path)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(json.dumps(record("later")).encode() + b'\n{"torn')
    folder, report = run(path, "jsonl", tmp_path / "export")
    assert (folder / "train.jsonl").read_bytes() == whole
    assert report.excluded == {}
    assert report.origin.conditions == ["total_reward > 0"]
    assert report.origin.dedup == "conversation"
    assert "condition   total_reward > 0" in (folder / "README.md").read_text()


def test_a_dataset_that_contradicts_its_ledger_is_refused(tmp_path: Path) -> None:
    """A person decides; nothing is written."""
    path = dataset_of_a_daemon(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(RefusedError, match="its ledger says"):
        run(path, "jsonl", tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert not list(tmp_path.glob(".export*"))


def test_the_same_input_and_options_give_the_same_files(path: Path) -> None:
    """Card and report included."""
    write(path, *rollouts(10), record("i", images=(image(),)))
    for form in ("jsonl", "openai", "sharegpt"):
        first, _ = run(path, form, path.with_name("first"), splits=HALVES, sample=20)
        second, _ = run(path, form, path.with_name("second"), splits=HALVES, sample=20)
        assert tree(first) == tree(second)
        run(path, form, first, splits=HALVES, sample=20, overwrite=True)
        assert tree(first) == tree(second)
        for folder in (first, second):
            subprocess.run(["rm", "-r", folder], check=True)


def test_memory_does_not_grow_with_the_dataset(path: Path) -> None:
    """One line at a time."""
    big = "x" * 200_000
    write(path, *(chat(("user", big), ("assistant", str(i)), turn=i) for i in range(200)))
    tracemalloc.start()
    run(path, "openai", splits=HALVES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 40_000_000
    assert peak < 8_000_000


# -- images ------------------------------------------------------------------------------------------------


def test_images_as_files_stand_there_once_under_the_name_of_what_is_in_them(path: Path) -> None:
    """And the line says where, in place of the data."""
    red, blue = image("red"), image("blue", "WEBP")
    write(path, record(images=(red,)), record(turn=1, images=(red, blue)), record(turn=2))
    folder, _ = run(path, "jsonl", images=ImageMode.FILES)
    found = lines(folder / "train.jsonl")
    urls = [[part["image_url"]["url"] for part in value["messages"][1]["content"][1:]] for value in found[:2]]
    assert urls[0][0] == urls[1][0]
    assert len(list((folder / "images").rglob("*.*"))) == 2
    assert re.fullmatch(r"images/[0-9a-f]{2}/[0-9a-f]{32}\.png", urls[0][0])
    assert urls[1][1].endswith(".webp")
    assert (folder / urls[0][0]).read_bytes().startswith(b"\x89PNG")
    assert found[2] == record(turn=2)


def test_images_that_are_dropped_leave_text(path: Path) -> None:
    """What was a list of parts is one text; what was nothing but an image is no record."""
    only = [{"type": "image_url", "image_url": {"url": image()}}]
    write(path, record(images=(image(),)), chat(("user", only), ("assistant", "A cow.")))
    folder, report = run(path, "jsonl", images=ImageMode.DROP)
    assert [value["messages"][1]["content"] for value in lines(folder / "train.jsonl")] == ["run-a turn 0"]
    assert report.excluded == {"only_images": 1}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.org/cow.png", "remote_image"),
        ("data:image/png;base64,####", "bad_image"),
        ("data:image/png,plain", "bad_image"),
        ("data:image/png;base64,aGVsbG8=", "bad_image"),
        ("../../etc/passwd", "bad_image"),
    ],
)
def test_an_image_that_is_not_here_is_a_reason(path: Path, url: str, reason: str) -> None:
    """Nothing is fetched, and no path of a record is followed."""
    write(path, record(images=(image(), url)), record(turn=1))
    folder, report = run(path, "jsonl", images=ImageMode.FILES)
    assert report.excluded == {reason: 1}
    assert not (folder / "images").exists()


# -- openai ------------------------------------------------------------------------------------------------


def test_lines_for_openai_hold_messages_and_tools_alone(path: Path) -> None:
    """With a key more, the file is refused there."""
    write(path, record(images=(image(),)), record(turn=1))
    folder, _ = run(path, "openai", tools=TOOLS)
    found = lines(folder / "train.jsonl")
    assert [value.keys() for value in found] == [{"messages", "tools"}] * 2
    assert found[1]["messages"] == record(turn=1)["messages"]
    assert found[0]["messages"][1]["content"][1] == {"type": "image_url", "image_url": {"url": image()}}


def test_what_breaks_a_rule_of_openai_is_left_out_with_line_and_rule(path: Path) -> None:
    """Each rule that it breaks is named."""
    write(path, record(), record(turn=1, images=(image(kind="GIF", mode="P", colour=None),) * 11))  # type: ignore[arg-type]
    folder, report = run(path, "openai")
    assert report.excluded == {"openai_rules": 1}
    (listed,) = lines(folder / EXCLUDED)
    assert listed["line"] == 2
    assert "image_count: 11 images; at most 10" in listed["details"]
    assert "image_format: messages[1].content[11]: GIF; JPEG, PNG and WebP are taken" in listed["details"]


def test_files_that_openai_would_refuse_are_warned_of(path: Path) -> None:
    """Too few examples, and calls of tools that are not defined."""
    write(path, *rollouts(2))
    _, report = run(path, "openai")
    assert "6 examples" in report.warnings[0]
    assert "--tools" in report.warnings[1]
    write(path, *rollouts(4))
    _, report = run(path, "openai", tools=TOOLS)
    assert report.warnings == []


# -- sharegpt ----------------------------------------------------------------------------------------------


def test_a_conversation_is_turns_in_the_sharegpt_format(path: Path) -> None:
    """Calls and their results have speakers of their own; several results are one turn."""
    other = {**CALL, "id": "c2"}
    write(
        path,
        record(
            messages=[
                {"role": "system", "content": "You play."},
                {"role": "user", "content": [{"type": "text", "text": "Look: "}, *_parts(image())]},
                {"role": "assistant", "content": "", "tool_calls": [CALL, other]},
                {"role": "tool", "tool_call_id": "c1", "content": "wood"},
                {"role": "tool", "tool_call_id": "c2", "content": "stone"},
                {"role": "assistant", "content": "Done."},
            ]
        ),
    )
    folder, _ = run(path, "sharegpt", tools=TOOLS)
    (line,) = lines(folder / "train.jsonl")
    turns = [(turn["from"], turn["value"]) for turn in line["conversations"]]
    assert turns[:2] == [("system", "You play."), ("human", "Look: <image>")]
    assert turns[2][0] == "function_call"
    assert json.loads(turns[2][1]) == [{"name": "act", "arguments": {"do": "collect"}}] * 2
    assert turns[3:] == [("observation", '["wood","stone"]'), ("gpt", "Done.")]
    assert len(line["images"]) == 1
    assert (folder / line["images"][0]).exists()
    assert json.loads(line["tools"]) == [tool["function"] for tool in TOOLS]


def _parts(*urls: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls]


ASK = {"role": "user", "content": "a"}
REPLY = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASK, ASK, REPLY], "turn_order"),
        ([REPLY], "turn_order"),
        ([ASK, REPLY, ASK], "turn_order"),
        ([ASK, {**REPLY, "tool_calls": [CALL]}], "text_beside_call"),
        ([{**ASK, "content": "<image>"}, REPLY], "image_token"),
        ([{**ASK, "content": [{"type": "audio"}]}, REPLY], "unknown_part"),
        ([ASK, {**REPLY, "mood": "fine"}], "unknown_key"),
        ([ASK, {**REPLY, "tool_calls": [{**CALL, "mood": "fine"}]}], "unknown_key"),
        (
            [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
            "arguments_no_object",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_left_out_and_said(path: Path, messages: list[Any], reason: str) -> None:
    """Readers of the format would drop it without a word, or train on something else."""
    write(path, record(messages=messages), record(turn=1))
    folder, report = run(path, "sharegpt")
    assert report.excluded == {reason: 1}
    assert lines(folder / EXCLUDED)[0]["reason"] == reason


# -- the folder --------------------------------------------------------------------------------------------


def test_an_existing_output_is_refused_unless_told_otherwise(path: Path, tmp_path: Path) -> None:
    """And what is no export is never replaced."""
    write(path, record())
    out = tmp_path / "export"
    run(path, "jsonl", out)
    before = tree(out)
    write(path, record(turn=1))
    with pytest.raises(ConfigError, match="--overwrite"):
        run(path, "jsonl", out)
    assert tree(out) == before
    run(path, "sharegpt", out, overwrite=True)
    assert lines(out / "train.jsonl")[0]["conversations"][1]["value"] == "run-a turn 1"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    (tmp_path / "link").symlink_to(out)
    for place in (tmp_path / "mine", tmp_path / "link", path):
        with pytest.raises((RefusedError, ConfigError)):
            run(path, "jsonl", place, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "…"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("place", [".", "..", "good.jsonl"])
def test_the_place_of_the_dataset_is_no_output(path: Path, place: str) -> None:
    """It would be replaced with it."""
    write(path, record())
    with pytest.raises(ConfigError, match="the dataset lies there"):
        run(path, "jsonl", path.parent / place, overwrite=True)


def test_if_no_record_is_left_nothing_is_written(path: Path, tmp_path: Path) -> None:
    """An older export stays."""
    write(path, record())
    out = tmp_path / "export"
    run(path, "jsonl", out)
    before = tree(out)
    write(path, b"nonsense\n")
    _, report = run(path, "jsonl", out, overwrite=True)
    assert report.written == 0
    assert tree(out) == before


class FullDisk(Files):
    """A disk that is full after so many syncs."""

    def __init__(self, syncs: int) -> None:
        self.left = syncs

    def fdatasync(self, fd: int) -> None:
        """Sync, or fail."""
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().fdatasync(fd)


def _write_two(output: ExportFolder) -> None:
    with output:
        output.write(REPORT, b"new")
        output.write("more", b"new")


def test_a_full_disk_costs_no_older_export(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    out = tmp_path / "export"
    with ExportFolder(out, overwrite=False) as output:
        output.write(REPORT, b"{}")
        output.publish()
    with pytest.raises(UnavailableError, match="No space left"):
        _write_two(ExportFolder(out, overwrite=True, files=FullDisk(1)))
    assert tree(out) == {REPORT: b"{}"}
    assert [found.name for found in tmp_path.iterdir()] == ["export"]


def test_two_exports_to_one_folder_do_not_mix(tmp_path: Path) -> None:
    """The second one says so; what a killed one left is removed."""
    left = tmp_path / ".export.part" / "new"
    left.mkdir(parents=True)
    (left / "old").write_text("from a killed one")
    with ExportFolder(tmp_path / "export", overwrite=False) as output:
        with pytest.raises(LockedError, match="another export"), ExportFolder(tmp_path / "export", overwrite=False):
            pass
        output.write(REPORT, b"{}")
        output.publish()
    assert tree(tmp_path / "export") == {REPORT: b"{}"}


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_older_one_whole(path: Path, tmp_path: Path) -> None:
    """And the next one does not mind what it left."""
    write(path, record())
    out = tmp_path / "export"
    run(path, "jsonl", out)
    before = tree(out)
    write(path, *(chat(("user", "x" * 100_000), ("assistant", str(i)), turn=i) for i in range(300)))
    command = [
        sys.executable,
        "-m",
        "streamer",
        "export",
        str(path),
        "--to",
        "openai",
        "--out",
        str(out),
        "--overwrite",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (tmp_path / ".export.part" / "new" / "train.jsonl").exists():
            pass
        process.kill()
    assert tree(out) == before
    _, report = run(path, "openai", out, overwrite=True)
    assert report.written == 300
    assert not list(tmp_path.glob(".*"))


def test_files_are_private_to_user_and_group(path: Path) -> None:
    """What models wrote is not for everyone."""
    write(path, record(images=(image(),)))
    folder, _ = run(path, "sharegpt")
    modes = {oct(found.stat().st_mode & 0o777) for found in folder.rglob("*") if found.is_file()}
    assert modes == {"0o640"}


# -- the card ----------------------------------------------------------------------------------------------

HOSTILE = (
    "x\n---\nlicense: evil\n</div><script>alert(1)</script>\n# Title\n![a](https://evil.example/a.png)\x1b[2J\u202e|`\n"
)


def test_nothing_of_a_record_is_markup_in_the_card(path: Path) -> None:
    """It stands in indented blocks, in ASCII, and not in the front matter."""
    write(path, chat(("user", HOSTILE), ("assistant", HOSTILE), run=HOSTILE, model=HOSTILE))
    folder, _ = run(path, "jsonl")
    text = (folder / "README.md").read_text()
    assert text.isascii()
    assert "\x1b" not in text
    _, front, *rest = text.split("---\n")
    assert "evil" not in front
    assert "script" in text
    body = "---\n".join(rest)
    assert all(
        line.startswith("    ") for line in body.splitlines() if "evil" in line or "script" in line or "Title" in line
    )


def test_the_card_says_what_was_asked_for_and_what_became_of_it(path: Path) -> None:
    """Counts, rules, where it is from, and a sample."""
    write(path, *rollouts(10), b"nonsense\n")
    folder, _ = run(path, "jsonl", splits=HALVES, top_rollouts=8)
    text = (folder / "README.md").read_text()
    for said in ("top rollouts  8", "splits        train=0.5, test=0.5", "not_json   1", "below_top  6", "31 lines"):
        assert said in text
    assert 'path: "train.jsonl"' in text
    assert '"content": "You play."' in text


# -- options and the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["train", "train=0.5", "train=0.5,train=0.5", "a/b=1", "all=1", "train=x", "train=0,test=1", "=1", "", "train=nan"],
)
def test_splits_that_are_none_are_named(text: str) -> None:
    """With the way to write them."""
    with pytest.raises(ConfigError, match=re.escape("--split train=0.9,test=0.1")):
        parse_splits(text)


def test_shares_may_be_any_that_add_up() -> None:
    """In floating point, too."""
    assert [split.name for split in parse_splits("a=0.1, b=0.2,c=0.7")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'[{"type": "function"}]', b'[{"type": "x", "function": {"name": "a"}}]', b"\xff"]
)
def test_tools_that_are_none_are_named(tmp_path: Path, data: bytes) -> None:
    """With the way to write them."""
    file = tmp_path / "tools.json"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="read the tools"):
        read_tools(file)


@pytest.mark.parametrize(
    ("to", "options"),
    [
        ("openai", {"images": ImageMode.FILES}),
        ("sharegpt", {"images": ImageMode.EMBEDDED}),
        ("trl", {"images": ImageMode.FILES}),
        ("jsonl", {"prompt_completion": True}),
        ("jsonl", {"tools": TOOLS}),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(
    path: Path, to: str, options: dict[str, Any]
) -> None:
    """A dataset need not even be there."""
    with pytest.raises(ConfigError, match=r"--(images|prompt-completion|tools)"):
        run(path, to, **options)


def test_every_key_of_the_metadata_has_a_column() -> None:
    """A key that every line has needs a type."""
    assert tuple(COLUMNS) == METADATA_KEYS


def test_what_does_not_fit_its_column_is_in_the_rest() -> None:
    """Nothing is lost, and no column has two types."""
    columns, rest = columns_of({"turn": "three", "total_reward": 2**70, "model": None, "has_image": 1, "more": [1]})
    assert set(columns.values()) == {None}
    assert json.loads(rest) == {"turn": "three", "total_reward": 2**70, "has_image": 1, "more": [1]}
    columns, rest = columns_of({"turn": 3, "total_reward": 2, "has_image": True, "achievements_count": True})
    assert (columns["turn"], columns["total_reward"], columns["has_image"]) == (3, 2.0, True)
    assert json.loads(rest) == {"achievements_count": True}


@pytest.mark.slow
def test_the_command_says_what_it_did(path: Path) -> None:
    """And the report is there for programs, too."""
    write(path, *rollouts(4), b"nonsense\n")
    done = call(path.parent, "good.jsonl", "--to", "jsonl", "--out", "export", "--split", "train=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["13 lines", "12 in train, from 4 rollouts", " 1 left out: not_json"]
    again = call(path.parent, "good.jsonl", "--to", "jsonl", "--out", "export", "--overwrite", "--json")
    assert json.loads(again.stdout) == json.loads((path.parent / "export" / REPORT).read_text())
    assert done.stderr == again.stderr == ""


@pytest.mark.slow
def test_exit_codes_say_how_it_went(path: Path) -> None:
    """Each without a traceback."""
    folder = path.parent
    assert call(folder, "good.jsonl", "--to", "jsonl", "--out", "export").returncode == 2
    write(path, b"nonsense\n")
    empty = call(folder, "good.jsonl", "--to", "jsonl", "--out", "export")
    assert (empty.returncode, "no record is left" in empty.stdout) == (1, True)
    write(path, record())
    assert call(folder, "good.jsonl", "--to", "jsonl", "--out", "export").returncode == 0
    assert call(folder, "good.jsonl", "--to", "jsonl", "--out", "export").returncode == 2
    assert call(folder, "good.jsonl", "--to", "nonsense", "--out", "export").returncode == 2
    (folder / "mine").mkdir()
    (folder / "mine" / "file").touch()
    refused = call(folder, "good.jsonl", "--to", "jsonl", "--out", "mine", "--overwrite")
    assert refused.returncode == 5
    assert "what to do" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_person_sees_how_far_it_is(path: Path) -> None:
    """On a terminal alone."""
    write(path, *(chat(("user", "x" * 100_000), ("assistant", str(i)), turn=i) for i in range(50)))
    command = [
        sys.executable,
        "-m",
        "streamer",
        "export",
        str(path),
        "--to",
        "jsonl",
        "--out",
        str(path.with_name("out")),
    ]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            seen += block
        os.close(ours)
    assert process.returncode == 0
    assert b"MB" in seen


@pytest.mark.parametrize(
    ("to", "options", "missing"),
    [
        ("parquet", {}, "pyarrow"),
        ("hub", {}, "pyarrow"),
        ("trl", {}, "pyarrow"),
        ("jsonl", {"where": "turn = 0"}, "duckdb"),
        ("openai", {}, "PIL.Image"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    path: Path, to: str, options: dict[str, Any], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it, and without anything written."""
    write(path, record(images=(image(),)))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match="install the extra `export`"):
        run(path, to, path.with_name("out"), **options)
    assert not path.with_name("out").exists()


def test_the_ledger_is_only_read(tmp_path: Path) -> None:
    """A daemon may hold it."""
    path = dataset_of_a_daemon(tmp_path)
    ledger = path.with_name("good.jsonl.ledger")
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("BEGIN IMMEDIATE")
        run(path, "jsonl", tmp_path / "export")
        db.execute("ROLLBACK")
    assert lines(tmp_path / "export" / "train.jsonl")


@pytest.mark.slow
def test_what_a_daemon_made_goes_all_the_way(tmp_path: Path) -> None:
    """From shards of a task app to splits, through the executable, with every option that needs no extra."""
    path = dataset_of_a_daemon(tmp_path)
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": {"name": "interact_many"}}]))
    options = ["--split", "train=0.5,test=0.5", "--top-rollouts", "2", "--sample", "4", "--seed", "3"]
    for to, more in (
        ("jsonl", ["--images", "files"]),
        ("openai", ["--images", "drop", "--tools", "tools.json"]),
        ("sharegpt", ["--tools", "tools.json"]),
    ):
        done = call(tmp_path, path, "--to", to, "--out", to, *options, *more, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["written"] == sum(split["records"] for split in report["splits"]) == 4
        assert report["excluded"] == {"not_sampled": 2}
        assert sum(len(lines(tmp_path / to / name)) for name in report["paths"].values()) == 4
