"""Datasets to export, made to order, and exports as the command makes them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from streamer.commands.export.card import ExportReport
from streamer.commands.export.options import Format, Options
from streamer.commands.export.run import export
from streamer.core.records.schema import METADATA_KEYS

CALL = {"id": "c1", "type": "function", "function": {"name": "act", "arguments": '{"do": "collect"}'}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "act",
            "description": "Act.",
            "parameters": {"type": "object", "properties": {"do": {"type": "string"}}},
        },
    }
]


def image(colour: str = "red", kind: str = "PNG", mode: str = "RGB", size: int = 4) -> str:
    """Return an image as a data URL."""
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def record(
    run: str | None = "run-a",
    turn: int = 0,
    reward: float | None = 3,
    *,
    images: tuple[str, ...] = (),
    messages: list[dict[str, Any]] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Return the value of a dataset line."""
    asked: Any = f"{run} turn {turn}"
    if images:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        asked = [{"type": "text", "text": asked}, *parts]
    usual = [
        {"role": "system", "content": "You play."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ]
    return {
        "messages": usual if messages is None else messages,
        "metadata": {
            **dict.fromkeys(METADATA_KEYS),
            "run_id": run,
            "turn": turn,
            "model": "gpt-5-nano",
            "total_reward": reward,
            "has_image": bool(images),
            **metadata,
        },
    }


def chat(*turns: tuple[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a record with these messages: (role, content)."""
    return record(messages=[{"role": role, "content": content} for role, content in turns], **metadata)


def rollouts(count: int, turns: int = 3) -> list[dict[str, Any]]:
    """Return the records of so many rollouts; the reward of each is its number."""
    return [record(f"run-{run}", turn, run) for run in range(count) for turn in range(turns)]


def write(path: Path, *values: Any) -> Path:
    """Write a dataset: values, or lines as they are."""
    lines = [value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values]
    path.write_bytes(b"".join(lines))
    return path


def run(
    dataset: Path, to: str, out: Path | None = None, *, overwrite: bool = False, **options: Any
) -> tuple[Path, ExportReport]:
    """Export a dataset; return the folder and the report, after seeing that the accounts add up."""
    folder = out or dataset.with_name(f"{to}-{len(list(dataset.parent.iterdir()))}")
    ledger = dataset.with_name(f"{dataset.name}.ledger")
    report = export(dataset, ledger, folder, Options(format=Format(to), **options), overwrite=overwrite)
    assert report.origin.lines == report.written + sum(report.excluded.values())
    return folder, report


def lines(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
