"""Records that are larger than a message: put by collectors, fetched and removed by writers.

A collector only publishes: it can neither read nor remove what is in the store. So it puts an object by itself, in the
way of the client's own ``put``, which would look first what was there; names are never used twice.
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
"""Bytes that the store takes for a chunk besides what is in it."""


async def put(link: Link, names: Names, name: str, data: bytes) -> str | None:
    """Put an object into the store; return why that cannot be, None if it is there now.

    Args:
        link: to the servers; what breaks it is raised as it is.
        names: of the fleet.
        name: one that no object has had.
        data: what it holds.
    """
    from nats.js.errors import APIError, Error  # noqa: PLC0415 - an extra

    chunk = min(_CHUNK, link.most_bytes - HEADER_BYTES)
    chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    try:
        info = await link.js.stream_info(f"OBJ_{names.objects}")
        limit = info.config.max_bytes or -1
        needed = len(data) + _OVERHEAD * (len(chunks) + 1)
        if 0 <= limit < info.state.bytes + needed:  # before anything of it is there, which nobody would remove
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
    """Return what an object holds; None if it is not there, or not what it should be."""
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
    """Remove an object, if it is there."""
    from nats.js.errors import Error  # noqa: PLC0415 - an extra

    try:
        store = await link.js.object_store(names.objects)
        await store.delete(name)
    except Error:  # it is gone
        return
