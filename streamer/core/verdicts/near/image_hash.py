"""Difference hashes of images, 256 bits each: similar images differ in few bits.

An image is made grey and scaled to 17 x 16 points; each bit says whether a point is brighter than its left neighbour.
An image that is no data URL, does not decode, or has only one colour gets a digest of its URL instead, and equals only
itself. Nothing is ever fetched.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from operator import lt

from blake3 import blake3

from streamer.base.errors import MissingExtraError
from streamer.core.records.images import first_frame, pillow

_SIDE = 16
BITS = _SIDE * _SIDE
IMAGE_BYTES = 1 + BITS // 8
"""A byte for the kind, and the hash or digest."""

_HASH, _DIGEST = b"\0", b"\1"


def image_hasher(*, perceptual: bool) -> Callable[[str], bytes]:
    """Return a function from an image's URL to its ``IMAGE_BYTES``; without ``perceptual`` they are a digest.

    Raises:
        MissingExtraError: images have to be decoded and Pillow is not installed.
    """
    if not perceptual:
        return _digest
    pillow("compare images", "near.images is set", "leave near.images out")
    return _difference_hash


def differing_bits(one: bytes, other: bytes) -> int | None:
    """Return the most bits in which images at the same position differ; None if they cannot be compared.

    Args:
        one: ``IMAGE_BYTES`` for each image of a record, in order.
        other: The same of another record.
    """
    if one == other:
        return 0
    if len(one) != len(other):
        return None
    most = 0
    for at in range(0, len(one), IMAGE_BYTES):
        left, right = one[at : at + IMAGE_BYTES], other[at : at + IMAGE_BYTES]
        if left != right and (left[:1] != _HASH or right[:1] != _HASH):
            return None
        most = max(most, (int.from_bytes(left) ^ int.from_bytes(right)).bit_count())
    return most


def _digest(url: str) -> bytes:
    return _DIGEST + blake3(url.encode("utf-8", "surrogatepass")).digest(IMAGE_BYTES - 1)


def _difference_hash(url: str) -> bytes:
    header, _, payload = url.partition(",")
    if not (header.startswith("data:") and header.endswith(";base64")):
        return _digest(url)
    try:
        with first_frame(b64decode(payload, validate=True)) as image:
            points = image.convert("L").resize((_SIDE + 1, _SIDE)).tobytes()
    except MissingExtraError:
        raise
    except Exception:  # noqa: BLE001 - decoders of hostile bytes raise whatever they stumble on
        return _digest(url)
    rows = (points[start : start + _SIDE + 1] for start in range(0, len(points), _SIDE + 1))
    bits = 0
    for row in rows:
        for left, right in pairwise(row):
            bits = bits << 1 | lt(left, right)
    # Without contrast the hash is all zeros, whatever the colour.
    return _HASH + bits.to_bytes(IMAGE_BYTES - 1) if bits else _digest(url)
