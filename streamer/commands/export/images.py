"""Images of a record, as bytes or as files that are named after what is in them."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import msgspec
from blake3 import blake3

from streamer.commands.export.unfit import Exclusion, UnfitError
from streamer.core.records.conversation import IMAGE_PARTS
from streamer.core.records.images import image_url

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)
_NAME_BYTES = 16

_Write = Callable[[str, bytes], None]
"""Writes one file: (path below the output, its bytes)."""


class Image(msgspec.Struct, frozen=True, gc=False):
    """One image as it is in the dataset. ``name`` says what is in it: equal images have equal names."""

    data: bytes
    name: str


class ImageFiles:
    """Images as files below one folder, each once.

    Args:
        folder: path below the output.
        write: writes a file that is not there yet.
        exists: says whether there is a file at a path below the output.
    """

    def __init__(self, folder: str, write: _Write, exists: Callable[[str], bool]) -> None:
        self._folder = folder
        self._write = write
        self._exists = exists

    def put(self, image: Image) -> str:
        """Return the path of an image, which is written unless it is there."""
        # The Hub takes some 10,000 files a folder.
        path = f"{self._folder}/{image.name[:2]}/{image.name}"
        if not self._exists(path):
            self._write(path, image.data)
        return path


def is_image(part: object) -> bool:
    """Say whether a part of a message's content is an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in IMAGE_PARTS


def image_of(part: dict[str, Any]) -> Image:
    """Return the image in a part.

    Raises:
        UnfitError: it is somewhere else (nothing is ever fetched), or no image of a known format.
    """
    url = image_url(part)
    if url is None:
        raise UnfitError(Exclusion.BAD_IMAGE, "there is no URL or data in an image part")
    if url.startswith(("http://", "https://")):
        raise UnfitError(Exclusion.REMOTE_IMAGE, "an image is on a server, and nothing is fetched")
    return Image(data := decoded(url), f"{blake3(data).hexdigest(_NAME_BYTES)}.{_suffix(data)}")


def decoded(url: str) -> bytes:
    """Return what is in a data URL.

    Raises:
        UnfitError: it is none, or not base64.
    """
    header, _, payload = url.partition(",")
    if not header.startswith("data:") or not header.endswith(";base64"):
        raise UnfitError(Exclusion.BAD_IMAGE, "an image is no data URL in base64")
    try:
        return b64decode(payload, validate=True)
    except ValueError as error:
        raise UnfitError(Exclusion.BAD_IMAGE, f"an image is not base64: {error}") from error


def _suffix(data: bytes) -> str:
    """Return the suffix of a file with this image, told by its first bytes.

    Raises:
        UnfitError: they are of no known format.
    """
    for signature, found in _SIGNATURES:
        if data.startswith(signature):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise UnfitError(Exclusion.BAD_IMAGE, "an image is neither PNG, JPEG, GIF, WebP nor BMP")


def relative(path: str, start: str) -> str:
    """Return a path below the output as seen from a folder below it."""
    return os.path.relpath(path, start)
