"""Checks of image parts. Data URLs are decoded; nothing is ever fetched."""

from __future__ import annotations

import warnings
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.base.errors import MissingExtraError
from streamer.core.records.schema import Finding, Kind, shown

if TYPE_CHECKING:
    from types import ModuleType

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
"""Formats that vision models accept. Pillow knows many more, and would start Ghostscript for one of them."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


class ImageFate(StrEnum):
    """Results of checking an image, by the name under which they are counted."""

    DECODED = "decoded"
    REMOTE = "remote"
    SKIPPED = "skipped"
    BROKEN = "broken"


class CheckedImage(msgspec.Struct, frozen=True):
    """The result of checking one image, with the finding, if there is one."""

    fate: ImageFate
    finding: Finding | None = None


def check_image(part: dict[str, Any], where: str, *, decode: bool) -> CheckedImage:
    """Check one image part.

    Args:
        part: The part of a message's content.
        where: Its place in the line, for the finding.
        decode: Decode the image, instead of only locating it.

    Raises:
        MissingExtraError: the image has to be decoded and Pillow is not installed.
    """
    url = image_url(part)
    if url is None:
        return _broken(where, "there is no URL or data in this part")
    if url.startswith(("http://", "https://")):
        return CheckedImage(ImageFate.REMOTE)
    if not url.startswith("data:"):
        return _broken(where, f"neither a data URL nor http(s): {shown(url)}")
    return _check_data(url, where) if decode else CheckedImage(ImageFate.SKIPPED)


def image_url(part: dict[str, Any]) -> str | None:
    """Return the URL of an image part, in the shape of any API; None if it has none."""
    for key in ("image_url", "image", "url", "source"):
        value = part.get(key)
        if isinstance(value, dict):
            value = value.get("url") or _inline(value)
        if isinstance(value, str):
            return value
    return None


class Embedded(msgspec.Struct, frozen=True):
    """An image as a data URL that is safe for a browser; ``why`` is the reason if there is none."""

    url: str = ""
    why: str = ""


def embedded(part: dict[str, Any], most: int) -> Embedded:
    """Return an image part as a data URL, if it holds the bytes of an image of a known kind.

    The kind is read from the bytes, not from the part, and the bytes are encoded again.

    Args:
        part: The part of a message's content.
        most: Bytes of the largest image to return.
    """
    url = image_url(part) or ""
    header, _, payload = url.partition(",")
    if not header.startswith("data:") or not header.endswith(";base64"):
        return Embedded(why="it lies elsewhere" if url.startswith(("http://", "https://")) else "it is no image data")
    if len(payload) * 3 > most * 4 + 8:
        return Embedded(why=f"it is larger than {most:,} bytes")
    try:
        data = b64decode(payload, validate=True)
    except ValueError:
        return Embedded(why="it is not base64")
    kind = _media_type(data)
    if kind is None:
        return Embedded(why="it is no PNG, JPEG, GIF, WebP or BMP")
    return Embedded(f"data:{kind};base64,{b64encode(data).decode()}")


def _media_type(data: bytes) -> str | None:
    """Return the media type by the first bytes; None if vision models do not accept it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def _inline(source: dict[str, Any]) -> str | None:
    if not isinstance(source.get("data"), str):
        return None
    return f"data:{source.get('media_type', '')};base64,{source['data']}"


def _broken(where: str, why: str) -> CheckedImage:
    return CheckedImage(ImageFate.BROKEN, Finding(Kind.BAD_IMAGE, f"{where}: {why}"))


def _check_data(url: str, where: str) -> CheckedImage:
    header, _, payload = url.partition(",")
    if not header.endswith(";base64"):
        return _broken(where, f"a data URL that is not base64: {shown(header)}")
    try:
        data = b64decode(payload, validate=True)
    except ValueError as error:
        return _broken(where, f"not base64: {error}")
    try:
        found = _decode(data)
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders of hostile bytes raise whatever they stumble on
        return _broken(where, f"does not decode: {shown(str(error) or type(error).__name__)}")
    return CheckedImage(ImageFate.DECODED, _type_differs(header, found, where))


def _decode(data: bytes) -> str:
    """Decode the first frame of an image and return its media type."""
    with first_frame(data) as image:
        return str(image.get_format_mimetype())


@contextmanager
def first_frame(data: bytes) -> Iterator[Any]:
    """Decode the first frame of an image, in a format that vision models accept.

    Raises:
        MissingExtraError: Pillow is not installed.
        Exception: decoders of hostile bytes raise whatever they stumble on.
    """
    module = pillow("decode the images", "the dataset has data URLs", "give --no-images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow only warns of an image between one and two times its limit; that is an error here.
        warnings.simplefilter("error", module.DecompressionBombWarning)
        with module.open(BytesIO(data), formats=_FORMATS) as image:
            image.load()
            yield image


def pillow(op: str, where: str, instead: str) -> ModuleType:
    """Return Pillow.

    Args:
        op: The operation that needs it, for the error.
        where: The setting that needs it.
        instead: The way to do without it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError:
        hint = f"install the extra `images` (in a checkout: pip install '.[images]'), or {instead}"
        raise MissingExtraError(op, where, "Pillow is not installed", hint) from None
    return Image


def _type_differs(header: str, found: str, where: str) -> Finding | None:
    said = header.removeprefix("data:").split(";")[0].strip().lower()
    if said in (found, found.replace("jpeg", "jpg")):
        return None
    return Finding(Kind.IMAGE_TYPE, f"{where}: says {shown(said)}, is {found}")
