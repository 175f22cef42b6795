"""Each format, loaded by those that it is made for: `datasets`, pyarrow and DuckDB."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, Image, Json, List, Value, load_dataset
from PIL import Image as Pillow

from streamer.commands.export.chat import ExportRecord
from streamer.commands.export.options import Format, ImageMode, Options, Split
from streamer.commands.export.output import ExportFolder
from streamer.commands.export.tables import Tables, layout
from tests.helpers.exports import CALL, TOOLS, chat, image, record, rollouts, run, tree, write

HALVES = (Split("train", 0.5), Split("test", 0.5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dataset is."""
    return tmp_path / "good.jsonl"


def mixed() -> list[dict[str, Any]]:
    """Return records of every kind; the first ones have neither images nor tool calls nor a reward."""
    odd = {"type": "function", "id": "c9", "function": {"name": "look", "arguments": '{"at": [1, {"x": null}]}'}}
    return [
        chat(("user", "plain"), ("assistant", "text"), run="run-a", reward=None),
        *rollouts(6),
        record("run-b", 0, images=(image("red"), image("blue", "JPEG"))),
        record("run-b", 1, images=(image("red"),), more={"deep": [1]}),
        record(
            "run-c",
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "parts"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL, odd]},
                {"role": "tool", "tool_call_id": "c9", "name": "look", "content": "a cow"},
                {"role": "assistant", "content": "Done.", "reasoning_content": "A cow is near."},
            ],
        ),
    ]


def loaded(folder: Path) -> DatasetDict:
    """Return an export as `datasets` loads it: the folder alone says all."""
    return load_dataset(str(folder))


def said(value: Any, *, objects: bool = False) -> Any:
    """Return messages as all tables tell them: parts of text and image, calls with id and type, nothing unset."""
    messages = []
    for message in value:
        told = {key: part for key, part in message.items() if part is not None and part != []}
        content = told.pop("content", [])
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kinds = [("image" if part["type"].startswith("image") else "text", part.get("text")) for part in parts]
        calls = [
            (call.get("id"), call["function"]["name"], _arguments(call["function"]["arguments"], objects=objects))
            for call in told.pop("tool_calls", [])
        ]
        messages.append((told, [part for part in kinds if part != ("text", "")], calls))
    return messages


def _arguments(value: Any, *, objects: bool) -> Any:
    return json.loads(value) if objects and isinstance(value, str) else value


@pytest.mark.parametrize("to", ["parquet", "hub", "trl"])
def test_tables_hold_what_the_dataset_does(path: Path, to: str) -> None:
    """Messages, images, metadata; by split; with one schema from the first row on."""
    values = mixed()
    folder, report = run(write(path, *values), to, splits=HALVES)
    assert report.excluded == {}
    data = loaded(folder)
    assert {name: len(rows) for name, rows in data.items()} == {split.name: split.records for split in report.splits}
    assert data["train"].features == data["test"].features
    rows = {(row["metadata"]["run_id"], row["metadata"]["turn"]): row for split in data.values() for row in split}
    assert len(rows) == len(values)
    for value in values:
        metadata = value["metadata"]
        row = rows[metadata["run_id"], metadata["turn"]]
        assert said(row["messages"], objects=to == "trl") == said(value["messages"], objects=to == "trl")
        told = {**row["metadata"], **json.loads(row["metadata"]["extra"])}
        assert {key: told[key] for key in metadata} == metadata
        assert [found.size for found in row["images"]] == [(4, 4)] * len(row["images"])
        assert len(row["images"]) == sum(
            kind == "image" for _, parts, _ in said(value["messages"]) for kind, _ in parts
        )
    assert rows["run-b", 0]["images"][1].format == "JPEG"
    ids = [row["id"] for row in rows.values()]
    assert len(set(ids)) == len(ids)


def test_arguments_are_text_for_all_and_objects_for_trl(path: Path) -> None:
    """Arrow would make one shape of the arguments of all tools, with nulls that no model wrote."""
    for to, feature in (("hub", Value("string")), ("trl", Json())):
        folder, _ = run(write(path, *mixed()), to)
        data = loaded(folder)["train"]
        assert data.features["messages"].feature["tool_calls"].feature["function"]["arguments"] == feature
        calls = data[-1]["messages"][1]["tool_calls"]
        texts = ['{"do": "collect"}', '{"at": [1, {"x": null}]}']
        assert [call["function"]["arguments"] for call in calls] == (
            texts if to == "hub" else [json.loads(text) for text in texts]
        )


def test_content_is_text_where_no_record_has_an_image(path: Path) -> None:
    """As trainers of text take it; said in so many words, images make it parts for good."""
    write(
        path,
        *rollouts(2),
        chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ("assistant", "c")),
    )
    folder, _ = run(path, "hub")
    data = loaded(folder)["train"]
    assert data.features["messages"].feature["content"] == Value("string")
    assert "images" not in data.features
    assert data[-1]["messages"][0]["content"] == "ab"
    folder, _ = run(path, "hub", images=ImageMode.EMBEDDED)
    data = loaded(folder)["train"]
    assert data.features["images"] == List(Image())
    assert [part["text"] for part in data[-1]["messages"][0]["content"]] == ["a", "b"]
    write(path, *mixed())
    folder, report = run(path, "hub", images=ImageMode.DROP)
    assert loaded(folder)["train"].features["messages"].feature["content"] == Value("string")
    assert report.excluded == {}


@pytest.mark.parametrize("to", Format)
def test_an_export_that_was_replaced_is_loaded_anew(path: Path, to: str) -> None:
    """And so is one of the same name elsewhere: the cache of `datasets` tells them apart."""
    lengths = []
    for turns in (2, 3):
        folder, _ = run(write(path, *rollouts(2, turns)), to, path.with_name("out"), overwrite=True)
        lengths.append(len(loaded(folder)["train"]))
    (path.parent / "more").mkdir()
    folder, _ = run(write(path.parent / "more" / "good.jsonl", *rollouts(2, 4)), to, path.parent / "more" / "out")
    assert [*lengths, len(loaded(folder)["train"])] == [4, 6, 8]


def test_tools_are_a_column_of_text(path: Path) -> None:
    """The same in every row."""
    folder, _ = run(write(path, *rollouts(2)), "hub", tools=TOOLS)
    assert [json.loads(row["tools"]) for row in loaded(folder)["train"]] == [TOOLS] * 6


def test_what_a_table_has_no_place_for_is_left_out_and_said(path: Path) -> None:
    """As arguments that are no object for TRL, whose templates look into them."""
    broken = {**CALL, "function": {"name": "act", "arguments": '["a"]'}}
    values = [
        record(turn=0),
        record(turn=1, messages=[{"role": "assistant", "content": "", "tool_calls": [broken]}]),
        record(turn=2, messages=[{"role": "assistant", "content": "a", "audio": {"id": 1}}]),
        record(turn=3, images=("https://example.org/cow.png",)),
    ]
    write(path, *values)
    _, report = run(path, "hub")
    assert report.excluded == {"remote_image": 1, "unknown_key": 1}
    _, report = run(path, "trl")
    assert report.excluded == {"arguments_no_object": 1, "remote_image": 1, "unknown_key": 1}


@pytest.mark.parametrize("to", ["jsonl", "openai", "sharegpt"])
def test_json_lines_are_loaded_from_their_folder(path: Path, to: str) -> None:
    """Front matter names the files, so that neither report nor list of exclusions is taken for data."""
    values = [value for value in mixed() if to != "sharegpt" or value["messages"][0]["role"] == "system"]
    folder, report = run(write(path, *values), to, splits=HALVES)
    data = loaded(folder)
    assert {name: len(rows) for name, rows in data.items()} == {split.name: split.records for split in report.splits}
    if to == "jsonl":
        found = {json.dumps(row["metadata"]["run_id"]): row for rows in data.values() for row in rows}
        assert said(found['"run-c"']["messages"]) == said(values[-1]["messages"])


def test_a_folder_of_images_is_loaded_with_them(path: Path) -> None:
    """As what `datasets` calls an image folder, which has no place for records without one."""
    folder, report = run(write(path, *mixed()), "hub", images=ImageMode.FILES)
    assert report.excluded == {"no_image": len(mixed()) - 2}
    data = loaded(folder)["train"]
    assert data.features["images"] == List(Image())
    assert [[found.convert("RGB").getpixel((0, 0)) for found in row["images"]] for row in data] == [
        [(255, 0, 0), (0, 0, 254)],
        [(255, 0, 0)],
    ]
    assert len(list((folder / "train" / "images").rglob("*.*"))) == 2
    assert said(data[0]["messages"]) == said(mixed()[-3]["messages"])


def test_images_beside_a_table_are_named_in_it(path: Path) -> None:
    """Each once, by what is in it."""
    folder, _ = run(write(path, *mixed()), "parquet", images=ImageMode.FILES)
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    names = [name for row in rows for name in row["images"]]
    assert (len(names), len(set(names))) == (3, 2)
    assert Pillow.open(folder / names[0]).getpixel((0, 0)) == (255, 0, 0)


def test_pyarrow_reads_one_schema_and_the_bytes_of_images(path: Path) -> None:
    """From both splits, whatever their rows hold."""
    folder, _ = run(write(path, *mixed()), "parquet", splits=HALVES)
    train, test = (pq.ParquetFile(folder / f"{name}.parquet") for name in ("train", "test"))
    assert train.schema_arrow == test.schema_arrow
    rows = [row for file in (train, test) for row in file.read().to_pylist()]
    data = [found["bytes"] for row in rows for found in row["images"]]
    assert len(data) == 3
    assert all(Pillow.open(io.BytesIO(found)).size == (4, 4) for found in data)


@pytest.mark.parametrize("values", [rollouts(1), mixed()[:1], mixed()[-1:]])
def test_the_schema_does_not_depend_on_what_the_rows_hold(path: Path, values: list[Any]) -> None:
    """With or without calls, results, rewards and further metadata."""
    folder, _ = run(write(path, *values), "parquet")
    other, _ = run(write(path, *rollouts(3)), "parquet")
    schemas = [pq.read_schema(found / "train.parquet") for found in (folder, other)]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_duckdb_asks_an_export_without_more(path: Path) -> None:
    """Metadata are columns, calls are lists."""
    folder, _ = run(write(path, *rollouts(5)), "hub", splits=HALVES)
    query = f"""
        SELECT metadata.run_id, avg(metadata.total_reward), any_value(messages[-1].tool_calls[1].function.arguments)
        FROM '{folder}/data/*.parquet' GROUP BY 1 ORDER BY 2 DESC LIMIT 1
    """
    assert duckdb.sql(query).fetchall() == [("run-4", 4.0, '{"do": "collect"}')]


def test_a_large_split_is_several_files(tmp_path: Path) -> None:
    """Named as the Hub wants it, and loaded as one."""
    options = Options(format=Format.HUB)
    with ExportFolder(tmp_path / "export", overwrite=False) as output:
        with Tables(output, layout(options, images=False), shard_bytes=1000) as tables:
            for turn in range(30):
                value = record(turn=turn)
                data = json.dumps(value).encode()
                tables.add("train", ExportRecord(turn + 1, str(turn), data, value["messages"], value["metadata"]))
            paths = tables.finish()
        output.publish()
    names = sorted(tree(tmp_path / "export"))
    assert names[0] == f"data/train-00000-of-{len(names):05d}.parquet"
    assert len(names) > 3
    data = load_dataset("parquet", data_files=str(tmp_path / "export" / paths["train"]), split="train")
    assert [row["metadata"]["turn"] for row in data] == list(range(30))


def test_the_same_input_gives_the_same_tables(path: Path) -> None:
    """Byte for byte."""
    write(path, *mixed())
    for to in ("parquet", "hub", "trl"):
        first, _ = run(path, to, splits=HALVES)
        second, _ = run(path, to, splits=HALVES)
        assert tree(first) == tree(second)


def test_memory_of_a_table_is_that_of_a_row_group(path: Path) -> None:
    """Not of the dataset."""
    big = "".join(map(str, range(40_000)))
    write(path, *(chat(("user", big), ("assistant", str(i)), turn=i) for i in range(1500)))
    assert path.stat().st_size > 250_000_000
    code = (
        "from streamer.commands.cli import main\n"
        "try: main()\n"
        "finally: print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, "export", str(path), "--to", "hub", "--out", str(path.with_name("out"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert int(done.stdout.splitlines()[-1]) < 300_000
