"""Parquet formats: rows of one schema, which is known before the first row.

The content of messages is text if no record has an image, and otherwise a list of parts. There an image is a part
``{"type": "image"}``, and its bytes or path are in the column ``images``, in the same order.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import ModuleType
from typing import Any, Self

import msgspec

from streamer.commands.export.chat import (
    ExportRecord,
    calls_of,
    known,
    object_of,
    parts_of,
    plain_text,
    text_of,
    without_images,
)
from streamer.commands.export.images import IMAGES, Image, ImageFiles, image_of, is_image
from streamer.commands.export.metadata import COLUMNS, columns_of
from streamer.commands.export.options import Format, ImageMode, Options
from streamer.commands.export.output import ExportFolder
from streamer.commands.export.unfit import Exclusion, UnfitError, extra

_ROW_GROUP_BYTES = 16 << 20
_ROW_GROUP_ROWS = 1000
_SHARD_BYTES = 500_000_000
"""Bytes of lines in one file for the Hub."""

_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
_DTYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}

_encode = msgspec.json.Encoder().encode

_Feature = Any
"""A type in the notation of ``datasets``: an object with ``_type``, an object of fields, or a list of one item."""


class _Layout(msgspec.Struct, frozen=True):
    """The schema and the files of an export.

    ``path`` is a file name with ``split``, ``shard`` and ``shards``; without ``sharded`` each split has one file.
    ``pattern`` is the pattern of the files of a ``split``, for the dataset card. With ``parts``, content is a list of
    parts, and there is a column of images. With ``objects``, ``datasets`` loads the arguments of calls as objects.
    ``linked`` is the column of image paths if images are files.
    """

    path: str
    pattern: str
    parts: bool
    sharded: bool = False
    objects: bool = False
    prompt_completion: bool = False
    tools: str | None = None
    drop: bool = False
    linked: str | None = None
    image_folder: str = IMAGES


def layout(options: Options, *, images: bool) -> _Layout:
    """Return the layout of an export.

    Args:
        options: The options of the export.
        images: Whether any record has an image.
    """
    drop = options.image_mode is ImageMode.DROP
    # An explicit --images also applies to datasets that get their first image later.
    parts = not drop and (images or options.images is not None)
    tools = None if options.tools is None else _encode(options.tools).decode()
    if options.format is Format.PARQUET:
        linked = "images" if options.image_mode is ImageMode.FILES else None
        return _Layout("{split}.parquet", "{split}.parquet", parts, tools=tools, drop=drop, linked=linked)
    if options.image_mode is ImageMode.FILES:
        # An image folder of `datasets`, which makes a column `images` of `file_names`.
        path, folder = "{split}/metadata.parquet", "{split}/images"
        return _Layout(path, "{split}/**", parts, tools=tools, linked="file_names", image_folder=folder)
    return _Layout(
        "data/{split}-{shard:05d}-of-{shards:05d}.parquet",
        "data/{split}-*.parquet",
        parts,
        sharded=True,
        objects=options.format is Format.TRL,
        prompt_completion=options.prompt_completion,
        tools=tools,
        drop=drop,
    )


class Tables:
    """Writes records as rows. Use it as a context manager.

    Args:
        output: The folder of the export.
        layout: The schema and the files.
        shard_bytes: Bytes of lines after which a new file begins, if the layout is sharded.
    """

    def __init__(self, output: ExportFolder, layout: _Layout, *, shard_bytes: int = _SHARD_BYTES) -> None:
        self._output = output
        self._layout = layout
        self._shard_bytes = shard_bytes
        why = ("write Parquet", "the format needs it")
        self._arrow = extra("pyarrow", "pyarrow", *why)
        self._parquet = extra("pyarrow.parquet", "pyarrow", *why)
        self._schemas = self._make_schema()
        self._open: dict[str, _File] = {}
        self._shards: dict[str, list[str]] = {}
        self._images: dict[str, ImageFiles] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.abandon()

    def add(self, split: str, record: ExportRecord) -> None:
        """Write one record.

        Raises:
            UnfitError: the format cannot hold it.
            UnavailableError: the disk did not take it.
        """
        row = self._row(split, record)
        if split not in self._open:
            self._open[split] = self._begin(split)
        file = self._open[split]
        file.add(row, len(record.data))
        if self._layout.sharded and file.taken >= self._shard_bytes:
            self._open.pop(split).close()

    def finish(self) -> dict[str, str]:
        """Close the files, and return the path or pattern of each split that has records."""
        for split in list(self._open):
            self._open.pop(split).close()
        for split, shards in self._shards.items():
            for shard, path in enumerate(shards):
                self._output.rename(path, self._layout.path.format(split=split, shard=shard, shards=len(shards)))
        return {split: self._layout.pattern.format(split=split) for split in self._shards}

    def _begin(self, split: str) -> _File:
        shards = self._shards.setdefault(split, [])
        shard = len(shards)
        # The number of shards is known at the end.
        path = self._layout.path.format(split=split, shard=shard, shards=0)
        shards.append(path)
        return _File(self._output, path, self._schemas, self._arrow, self._parquet)

    def _row(self, split: str, record: ExportRecord) -> dict[str, Any]:
        images: list[Image] = []
        messages = [self._message(message, images) for message in record.messages]
        row: dict[str, Any] = {"id": record.id}
        if self._layout.prompt_completion:
            last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
            row |= {"prompt": messages[:last], "completion": messages[last:]}
        else:
            row["messages"] = messages
        if self._layout.parts:
            row |= self._image_column(split, images)
        if self._layout.tools is not None:
            row["tools"] = self._layout.tools
        columns, extra = columns_of(record.metadata)
        row["metadata"] = {**columns, "extra": extra}
        return row

    def _message(self, message: dict[str, Any], images: list[Image]) -> dict[str, Any]:
        found = known(without_images(message) if self._layout.drop else message, _KEYS)
        content = found.get("content")
        found["content"] = self._parts(content, images) if self._layout.parts else plain_text(content)
        if "tool_calls" in found:
            found["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": self._arguments(call)}}
                for call in calls_of(message)
            ]
        return found

    def _arguments(self, call: Any) -> str:
        if self._layout.objects:
            return _encode(object_of(call.arguments)).decode()
        arguments: str = call.arguments
        return arguments

    def _parts(self, content: Any, images: list[Image]) -> list[dict[str, str | None]] | None:
        if content is None:
            return None
        parts: list[dict[str, str | None]] = []
        for part in parts_of(content):
            if is_image(part):
                images.append(image_of(part))
                parts.append({"type": "image", "text": None})
            else:
                parts.append({"type": "text", "text": text_of(part)})
        return parts

    def _image_column(self, split: str, images: list[Image]) -> dict[str, Any]:
        column = self._layout.linked
        if column is None:
            return {"images": [{"bytes": image.data, "path": image.name} for image in images]}
        if column == "file_names" and not images:
            raise UnfitError(Exclusion.NO_IMAGE, "an image folder has no place for a record without an image")
        folder = self._layout.image_folder.format(split=split)
        files = self._images.setdefault(split, ImageFiles(self._output, folder))
        home = self._layout.path.format(split=split).rpartition("/")[0] or "."
        return {column: [os.path.relpath(files.put(image), home) for image in images]}

    def _make_schema(self) -> tuple[Any, Any]:
        """Return the schema of the rows in memory, and the schema of the file.

        The second has a type for JSON, and the notation of ``datasets``, which needs it to recognise images.
        """
        arrow, made = self._arrow, self._layout
        text = _value("string")
        arguments = {"_type": "Json"} if made.objects else text
        message = {
            "role": text,
            "content": [{"type": text, "text": text}] if made.parts else text,
            "tool_calls": [{"id": text, "type": text, "function": {"name": text, "arguments": arguments}}],
            "tool_call_id": text,
            "name": text,
            "reasoning_content": text,
        }
        columns: dict[str, _Feature] = {"id": text}
        columns |= {name: [message] for name in (("prompt", "completion") if made.prompt_completion else ("messages",))}
        if made.parts:
            columns[made.linked or "images"] = [text if made.linked else {"_type": "Image"}]
        if made.tools is not None:
            columns["tools"] = text
        columns["metadata"] = {name: _value(_DTYPES[kind]) for name, kind in COLUMNS.items()} | {"extra": text}
        stored = arrow.schema(
            [(name, _arrow_type(arrow, feature, arrow.string())) for name, feature in columns.items()]
        )
        schema = arrow.schema([(name, _arrow_type(arrow, feature, arrow.json_())) for name, feature in columns.items()])
        return stored, schema.with_metadata({"huggingface": _encode({"info": {"features": columns}})})


class _File:
    """One Parquet file. Rows are collected until they fill a row group."""

    def __init__(
        self, output: ExportFolder, path: str, schemas: tuple[Any, Any], arrow: ModuleType, parquet: ModuleType
    ) -> None:
        self.taken = 0
        self._arrow = arrow
        self._stored, self._schema = schemas
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._stack = ExitStack()
        file = self._stack.enter_context(output.open(path))
        self._writer = self._stack.enter_context(parquet.ParquetWriter(file, self._schema, compression="zstd"))

    def add(self, row: dict[str, Any], size: int) -> None:
        self._rows.append(row)
        self._bytes += size
        self.taken += size
        if self._bytes >= _ROW_GROUP_BYTES or len(self._rows) >= _ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        with self._stack:
            self._flush()

    def abandon(self) -> None:
        self._stack.close()

    def _flush(self) -> None:
        if self._rows:
            # Arrow makes no extension types of Python objects, but casts from their storage types.
            table = self._arrow.Table.from_pylist(self._rows, schema=self._stored)
            self._writer.write_table(table.cast(self._schema))
        self._rows, self._bytes = [], 0


def _value(dtype: str) -> _Feature:
    return {"dtype": dtype, "_type": "Value"}


def _arrow_type(arrow: ModuleType, feature: _Feature, json: Any) -> Any:
    """Return the Arrow type in which ``datasets`` stores a feature; ``json`` is the one for JSON."""
    if isinstance(feature, list):
        return arrow.list_(_arrow_type(arrow, feature[0], json))
    kind = feature.get("_type")
    if kind == "Value":
        return arrow.type_for_alias(feature["dtype"])
    if kind == "Json":
        return json
    if kind == "Image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    return arrow.struct([(name, _arrow_type(arrow, inner, json)) for name, inner in feature.items()])
