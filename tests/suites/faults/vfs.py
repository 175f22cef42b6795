"""SQLite's own file system calls, seen and refused by a test: a thin layer over its default file access.

SQLite calls whoever is registered as its default "VFS" for every file. Here that is a copy of the usual one
whose ``open`` hands out files with other ``read``, ``write``, ``sync`` and ``truncate``: these ask a
``Watcher`` first. What has no watcher goes straight through.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = 0
FULL = 13
IOERR = 10
IOERR_READ = IOERR | 1 << 8
IOERR_WRITE = IOERR | 3 << 8
IOERR_FSYNC = IOERR | 4 << 8
IOERR_TRUNCATE = IOERR | 6 << 8


class Watcher(Protocol):
    """Who is asked before SQLite touches a file. Each answer is a result code; ``OK`` lets the call happen."""

    def watches(self, path: str) -> bool:
        """Say whether the calls on this file are to be asked about."""

    def db_read(self, path: str) -> int:
        """Answer a read."""

    def db_write(self, path: str, data: bytes, offset: int) -> tuple[int, int]:
        """Answer a write, and say how many of its bytes are written all the same if it is refused."""

    def db_sync(self, path: str) -> int:
        """Answer a sync."""

    def db_truncate(self, path: str, size: int) -> int:
        """Answer a truncation."""

    def db_delete(self, path: str) -> int:
        """Answer a deletion."""


class _Vfs(Structure):
    """``sqlite3_vfs``, up to the last function that is replaced."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("rest", c_void_p * 16),
    )


class _Methods(Structure):
    """``sqlite3_io_methods``."""

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("rest", c_void_p * 13),
    )


class _File(Structure):
    """``sqlite3_file``."""

    _fields_ = (("methods", POINTER(_Methods)),)


_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Close = CFUNCTYPE(c_int, c_void_p)
_Read = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


def available() -> bool:
    """Say whether this interpreter's SQLite lets itself be reached (a static build may not)."""
    return hasattr(ctypes.CDLL(_sqlite3.__file__), "sqlite3_vfs_find")


@contextmanager
def sqlite_asks(watcher: Watcher) -> Iterator[None]:
    """Let every SQLite connection that is opened from here on ask ``watcher``."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    usual = library.sqlite3_vfs_find(None)
    ours = _Ours(usual, watcher)
    library.sqlite3_vfs_register(ctypes.byref(ours.vfs), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(ours.vfs))
        library.sqlite3_vfs_register(usual, 1)


class _Ours:
    """The layer; it has to live as long as any file that it opened."""

    def __init__(self, usual: Any, watcher: Watcher) -> None:
        self._usual = usual
        self._watcher = watcher
        self._names: dict[int, str] = {}
        self._methods: dict[int, _Methods] = {}
        self._usual_open = _Open(usual.contents.open)
        self._usual_delete = _Delete(usual.contents.delete)
        self._kept: list[object] = [_Open(self._open), _Delete(self._delete)]
        self.vfs = _Vfs.from_buffer_copy(usual.contents)
        self.vfs.name = b"watched"
        self.vfs.open, self.vfs.delete = (ctypes.cast(call, c_void_p).value for call in self._kept)  # type: ignore[arg-type]

    def _open(self, _vfs: int, name: int | None, file: Any, flags: int, out: int) -> int:
        code: int = self._usual_open(ctypes.addressof(self._usual.contents), name, file, flags, out)
        if code != OK or name is None:
            return code
        path = (ctypes.string_at(name)).decode("utf-8", "surrogateescape")
        if self._watcher.watches(path):
            self._names[ctypes.addressof(file.contents)] = path
            file.contents.methods = ctypes.pointer(self._watched(file.contents.methods))
        return code

    def _delete(self, vfs: int, name: bytes, sync: int) -> int:
        path = name.decode("utf-8", "surrogateescape")
        code = self._watcher.db_delete(path) if self._watcher.watches(path) else OK
        return code or self._usual_delete(vfs, name, sync)

    def _watched(self, usual: Any) -> _Methods:
        """Return the methods of a watched file that was opened with the usual ones."""
        address = ctypes.addressof(usual.contents)
        if address not in self._methods:
            methods = _Methods.from_buffer_copy(usual.contents)
            calls = {
                "close": _Close(self._closing(_Close(usual.contents.close))),
                "read": _Read(self._reading(_Read(usual.contents.read))),
                "write": _Write(self._writing(_Write(usual.contents.write))),
                "truncate": _Truncate(self._truncating(_Truncate(usual.contents.truncate))),
                "sync": _Sync(self._syncing(_Sync(usual.contents.sync))),
            }
            for field, call in calls.items():
                setattr(methods, field, ctypes.cast(call, c_void_p).value)
            self._kept.append(calls)
            self._methods[address] = methods
        return self._methods[address]

    def _closing(self, usual: Any) -> Any:
        def close(file: int) -> int:
            self._names.pop(file, None)
            code: int = usual(file)
            return code

        return close

    def _reading(self, usual: Any) -> Any:
        def read(file: int, buffer: int, size: int, offset: int) -> int:
            code: int = self._watcher.db_read(self._names[file]) or usual(file, buffer, size, offset)
            return code

        return read

    def _writing(self, usual: Any) -> Any:
        def write(file: int, buffer: int, size: int, offset: int) -> int:
            data = ctypes.string_at(buffer, size)
            refused, part = self._watcher.db_write(self._names[file], data, offset)
            done = usual(file, buffer, part if refused else size, offset) if part or not refused else OK
            return refused or done

        return write

    def _truncating(self, usual: Any) -> Any:
        def truncate(file: int, size: int) -> int:
            code: int = self._watcher.db_truncate(self._names[file], size) or usual(file, size)
            return code

        return truncate

    def _syncing(self, usual: Any) -> Any:
        def sync(file: int, flags: int) -> int:
            code: int = self._watcher.db_sync(self._names[file]) or usual(file, flags)
            return code

        return sync
