"""Extract the images of a record, and detect their type. Images are never decoded or fetched."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec

from streamer.core.records.images import image_url


class Picture(msgspec.Struct, frozen=True):
    """An image that is safe to send to a browser."""

    media: str
    data: bytes


class NoPictureError(Exception):
    """A part without an image that can be shown; ``why`` is the message to the user."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def media_type(data: bytes) -> str | None:
    """Detect the media type of a PNG, JPEG, GIF or WebP by its first bytes; None for other data."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def picture(part: dict[str, Any]) -> Picture:
    """Return the image of an image part.

    Raises:
        NoPictureError: It has none that can be shown.
    """
    data = _decoded(_payload(part))
    media = media_type(data)
    if media is None:
        raise NoPictureError("its bytes are no PNG, JPEG, GIF or WebP")
    return Picture(media, data)


def remote_url(part: dict[str, Any]) -> str | None:
    """Return the http(s) URL of an image part; None if it has none."""
    url = image_url(part)
    return url if url is not None and url[:8].lower().startswith(("http://", "https://")) else None


def _payload(part: dict[str, Any]) -> str:
    url = image_url(part)
    if url is None:
        raise NoPictureError("there is no image in this part")
    if remote_url(part) is not None:
        raise NoPictureError("the image lies elsewhere, and is never fetched")
    header, comma, payload = url.partition(",")
    if not (header.startswith("data:") and comma):
        raise NoPictureError("it is neither a data URL nor http(s)")
    if not header.endswith(";base64"):
        raise NoPictureError("its data URL is not base64")
    return payload


def _decoded(payload: str) -> bytes:
    try:
        return b64decode(payload, validate=True)
    except ValueError:
        raise NoPictureError("its data URL is not base64") from None
