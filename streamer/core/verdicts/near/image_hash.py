"""How an image looks, in 256 bits: a difference hash. Images that look the same differ in few of them.

An image is made grey and scaled to 17 x 16 points; each bit says whether a point is brighter than its left neighbour.
What is no data URL, does not decode, or is all of one colour, is known by a digest of its URL instead: it equals itself
only. Nothing is ever fetched.
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
    """Return the function that gives the ``IMAGE_BYTES`` of an image's URL; without ``perceptual`` its digest.

    Raises:
        MissingExtraError: images have to be decoded and Pillow is not installed.
    """
    if not perceptual:
        return _identity
    pillow("compare images", "near.images is set", "leave near.images out")
    return _look


def differing_bits(one: bytes, other: bytes) -> int | None:
    """Return the bits in which the two images of a pair differ, at most; None if there is no such pair.

    Args:
        one: ``IMAGE_BYTES`` for each image of a record, in order.
        other: the same of another record.
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


def _identity(url: str) -> bytes:
    return _DIGEST + blake3(url.encode("utf-8", "surrogatepass")).digest(IMAGE_BYTES - 1)


def _look(url: str) -> bytes:
    header, _, payload = url.partition(",")
    if not (header.startswith("data:") and header.endswith(";base64")):
        return _identity(url)
    try:
        with first_frame(b64decode(payload, validate=True)) as image:
            points = image.convert("L").resize((_SIDE + 1, _SIDE)).tobytes()
    except MissingExtraError:
        raise
    except Exception:  # noqa: BLE001 - decoders of hostile bytes raise whatever they stumble on
        return _identity(url)
    rows = (points[start : start + _SIDE + 1] for start in range(0, len(points), _SIDE + 1))
    bits = 0
    for row in rows:
        for left, right in pairwise(row):
            bits = bits << 1 | lt(left, right)
    # Of a picture without any contrast the hash says nothing, not even which colour it has.
    return _HASH + bits.to_bytes(IMAGE_BYTES - 1) if bits else _identity(url)
