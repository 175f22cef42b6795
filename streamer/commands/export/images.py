"""Images of records, as bytes or as files named by a digest of their content."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
from blake3 import blake3

from streamer.commands.export.output import ExportFolder
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

IMAGES = "images"
"""The folder of images that are files."""


class Image(msgspec.Struct, frozen=True, gc=False):
    """One image as it is in the dataset. ``name`` is a digest with a suffix: equal images have equal names."""

    data: bytes
    name: str


class ImageFiles:
    """Images as files below one folder, each once.

    Args:
        output: The folder of the export.
        folder: The path of the images below it.
    """

    def __init__(self, output: ExportFolder, folder: str = IMAGES) -> None:
        self._output = output
        self._folder = folder

    def put(self, image: Image) -> str:
        """Write an image unless it exists, and return its path."""
        # The Hub takes some 10,000 files a folder.
        path = f"{self._folder}/{image.name[:2]}/{image.name}"
        if not self._output.exists(path):
            self._output.write(path, image.data)
        return path


def is_image(part: object) -> bool:
    """Return whether a part of a message's content is an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in IMAGE_PARTS


def image_of(part: dict[str, Any]) -> Image:
    """Return the image in a part.

    Raises:
        UnfitError: it is on a server (images are never fetched), or its format is unknown.
    """
    url = image_url(part)
    if url is None:
        raise UnfitError(Exclusion.BAD_IMAGE, "there is no URL or data in an image part")
    if url.startswith(("http://", "https://")):
        raise UnfitError(Exclusion.REMOTE_IMAGE, "an image is on a server, and nothing is fetched")
    return Image(data := decoded(url), f"{blake3(data).hexdigest(_NAME_BYTES)}.{_suffix(data)}")


def decoded(url: str) -> bytes:
    """Return the bytes in a data URL.

    Raises:
        UnfitError: it is no data URL in base64.
    """
    header, _, payload = url.partition(",")
    if not header.startswith("data:") or not header.endswith(";base64"):
        raise UnfitError(Exclusion.BAD_IMAGE, "an image is no data URL in base64")
    try:
        return b64decode(payload, validate=True)
    except ValueError as error:
        raise UnfitError(Exclusion.BAD_IMAGE, f"an image is not base64: {error}") from error


def _suffix(data: bytes) -> str:
    """Return the file suffix of an image, which its first bytes determine.

    Raises:
        UnfitError: the format is unknown.
    """
    for signature, found in _SIGNATURES:
        if data.startswith(signature):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise UnfitError(Exclusion.BAD_IMAGE, "an image is neither PNG, JPEG, GIF, WebP nor BMP")
