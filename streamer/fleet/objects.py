"""Objects for records larger than a message: stored by collectors, fetched and removed by writers.

A collector may only publish: it can neither read nor remove objects. The client's own ``put`` would read first, so
this module publishes the chunks itself, in the same format; names are never used twice.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING

import msgspec

from streamer.fleet.message import HEADER_BYTES, LONGEST_LINE

if TYPE_CHECKING:
    from streamer.config.fleet_names import Names
    from streamer.fleet.connection import Link

_CHUNK = 128 << 10
_OVERHEAD = 512
"""Bytes that the store needs for a chunk besides its data."""


async def put(link: Link, names: Names, name: str, data: bytes) -> str | None:
    """Store an object; return the cause if that is impossible, None on success.

    Args:
        link: The link; its errors are raised as they are.
        names: Names of the fleet.
        name: A name that no object has had.
        data: Content of the object.
    """
    from nats.js.errors import APIError, Error  # noqa: PLC0415 - an extra

    chunk = min(_CHUNK, link.most_bytes - HEADER_BYTES)
    chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    try:
        info = await link.js.stream_info(f"OBJ_{names.objects}")
        limit = info.config.max_bytes or -1
        needed = len(data) + _OVERHEAD * (len(chunks) + 1)
        if 0 <= limit < info.state.bytes + needed:  # checked first, as no one would remove single chunks
            return f"the object store {names.objects} has no room for {needed:,} more bytes: see its limit"
        number = secrets.token_hex(12)
        for piece in chunks:
            await link.js.publish(f"$O.{names.objects}.C.{number}", piece)
        await link.js.publish(
            f"$O.{names.objects}.M.{base64.urlsafe_b64encode(name.encode()).decode()}",
            _meta(names, name, number, data, len(chunks)),
            headers={"Nats-Rollup": "sub"},
        )
    except APIError as error:
        return f"the object store {names.objects} does not take it: {error.description}"
    except Error as error:
        return f"the object store {names.objects} cannot be used: {error}"
    return None


def _meta(names: Names, name: str, number: str, data: bytes, chunks: int) -> bytes:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
    return msgspec.json.encode(
        {
            "name": name,
            "bucket": names.objects,
            "nuid": number,
            "size": len(data),
            "chunks": chunks,
            "digest": f"SHA-256={digest}",
            "mtime": "1970-01-01T00:00:00Z",
        }
    )


async def get(link: Link, names: Names, name: str) -> bytes | None:
    """Return the content of an object; None if it is missing or damaged."""
    from nats.js.errors import Error  # noqa: PLC0415 - an extra

    try:
        store = await link.js.object_store(names.objects)
        if ((await store.get_info(name)).size or 0) > LONGEST_LINE:
            return None
        found: bytes | None = (await store.get(name)).data
    except Error:
        return None
    return found


async def remove(link: Link, names: Names, name: str) -> None:
    """Remove an object if it exists."""
    from nats.js.errors import Error  # noqa: PLC0415 - an extra

    try:
        store = await link.js.object_store(names.objects)
        await store.delete(name)
    except Error:  # it does not exist
        return
