"""The options of an export, checked before the dataset is read."""

from __future__ import annotations

import re
from enum import StrEnum
from math import isclose
from pathlib import Path
from typing import Any

import msgspec

from streamer.base.errors import ConfigError
from streamer.base.text import printable

_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = {"all", "images", "data"}
"""``datasets`` reads `all` as all splits; the others are folders of an export."""


class Format(StrEnum):
    """The format of an export."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    HUB = "hub"
    OPENAI = "openai"
    TRL = "trl"
    SHAREGPT = "sharegpt"


class ImageMode(StrEnum):
    """The treatment of images."""

    EMBEDDED = "embedded"
    FILES = "files"
    DROP = "drop"


_IMAGE_MODES: dict[Format, tuple[ImageMode, ...]] = {
    Format.JSONL: (ImageMode.EMBEDDED, ImageMode.FILES, ImageMode.DROP),
    Format.PARQUET: (ImageMode.EMBEDDED, ImageMode.FILES, ImageMode.DROP),
    Format.HUB: (ImageMode.EMBEDDED, ImageMode.FILES, ImageMode.DROP),
    Format.OPENAI: (ImageMode.EMBEDDED, ImageMode.DROP),
    Format.TRL: (ImageMode.EMBEDDED, ImageMode.DROP),
    Format.SHAREGPT: (ImageMode.FILES, ImageMode.DROP),
}
"""The image modes of each format; the first is its default."""

_TAKES_TOOLS = frozenset({Format.PARQUET, Format.HUB, Format.OPENAI, Format.TRL, Format.SHAREGPT})


class Split(msgspec.Struct, frozen=True):
    """One split, with a share of the rollouts between 0 and 1."""

    name: str
    share: float


class Options(msgspec.Struct, frozen=True):
    """The options of an export. With ``images`` None, the default mode of the format applies.

    ``tools`` are definitions in the form of the chat completions API, repeated in every record.
    """

    format: Format
    splits: tuple[Split, ...] = (Split("train", 1.0),)
    where: str | None = None
    top_rollouts: int | None = None
    sample: int | None = None
    seed: int = 0
    images: ImageMode | None = None
    tools: list[dict[str, Any]] | None = None
    prompt_completion: bool = False

    @property
    def image_mode(self) -> ImageMode:
        """The image mode that applies."""
        return self.images or _IMAGE_MODES[self.format][0]

    def check(self) -> None:
        """Refuse options that the format does not have.

        Raises:
            ConfigError: the format does not have an option.
        """
        modes = _IMAGE_MODES[self.format]
        if self.image_mode not in modes:
            raise _wrong("--images", f"{self.format} takes {' or '.join(modes)}", "name another one, or leave it out")
        if self.prompt_completion and self.format is not Format.TRL:
            raise _wrong("--prompt-completion", f"{self.format} has no such columns", "use it with --to trl")
        if self.tools is not None and self.format not in _TAKES_TOOLS:
            raise _wrong("--tools", "jsonl repeats the lines of the dataset as they are", "choose another format")


def parse_splits(text: str) -> tuple[Split, ...]:
    """Return the splits of ``train=0.9,test=0.1``.

    Raises:
        ConfigError: the text has another form, a name occurs twice, or the shares do not add up to 1.
    """
    splits = []
    for item in text.split(","):
        name, equals, share = item.strip().partition("=")
        if not equals or not _SPLIT_NAME.fullmatch(name) or name in _RESERVED:
            raise _wrong_split(f"{printable(item.strip())!r} is no NAME=SHARE with a name of a-z, 0-9 and _")
        splits.append(Split(name, _share(share, item)))
    if len({split.name for split in splits}) < len(splits):
        raise _wrong_split("a name stands there twice")
    if not isclose(sum(split.share for split in splits), 1.0, abs_tol=1e-9):
        raise _wrong_split(f"the shares add up to {sum(split.share for split in splits):g}, not to 1")
    return tuple(splits)


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Return the tool definitions in a JSON file.

    Raises:
        ConfigError: the file cannot be read, or is no list of ``{"type": "function", "function": {"name": …}}``.
    """
    try:
        tools = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
        names = [tool["function"]["name"] for tool in tools if tool["type"] == "function"]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _wrong_tools(path, f"no list of tool definitions: {printable(cause)}") from error
    if not tools or len(names) < len(tools) or not all(isinstance(name, str) for name in names):
        raise _wrong_tools(path, "no list of tool definitions of type function")
    return tools


def _share(text: str, item: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise _wrong_split(f"the share of {printable(item.strip())!r} is no number above 0 and up to 1")
    return share


def _wrong(option: str, cause: str, hint: str) -> ConfigError:
    return ConfigError("export", option, cause, hint)


def _wrong_split(cause: str) -> ConfigError:
    return _wrong("--split", cause, "write it as --split train=0.9,test=0.1")


def _wrong_tools(path: Path, cause: str) -> ConfigError:
    hint = 'write it as [{"type": "function", "function": {"name": …, "parameters": {…}}}]'
    return ConfigError("read the tools", printable(str(path)), cause, hint)
