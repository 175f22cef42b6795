"""The static files of the web UI, read once. Requests never name paths: only these files are served."""

from __future__ import annotations

from pathlib import Path

import msgspec
from blake3 import blake3

_FOLDER = Path(__file__).parent / "static"
_MEDIA = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Served suffixes and their media types; with `nosniff`, a script of another type would not run."""


class StaticFile(msgspec.Struct, frozen=True):
    """A file and its response headers."""

    data: bytes
    media: str
    etag: str


def static_files() -> dict[str, StaticFile]:
    """Return the static files by their path below ``/static/``."""
    paths = [path for path in sorted(_FOLDER.rglob("*")) if path.suffix in _MEDIA and path.is_file()]
    return {path.relative_to(_FOLDER).as_posix(): _file(path) for path in paths}


def _file(path: Path) -> StaticFile:
    data = path.read_bytes()
    return StaticFile(data, _MEDIA[path.suffix], f'"{blake3(data).hexdigest()[:32]}"')
