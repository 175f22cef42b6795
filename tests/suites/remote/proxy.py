"""A network that can be watched, cut, silenced and encrypted, between streamer and a server."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl


class Proxy:
    """Passes connections on to a port of the loopback, for as long as the block it is opened for.

    ``requests`` counts what was asked through it. With ``cut_after``, each connection ends after so many bytes of an
    answer. With ``is_silent``, nothing is passed on, and nothing ends either. With ``is_gone``, connections are
    accepted and closed at once.

    Args:
        port: where it passes connections on to.
        tls: what it is a TLS server with, if it is one.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._to = port
        self._tls = tls
        self._open: set[socket.socket] = set()
        self.requests = 0
        self.connections = 0
        self.cut_after: int | None = None
        self.is_silent = False
        self.is_gone = False

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections that are open."""
        for end in list(self._open):
            _end(end)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            if self.is_gone:
                return
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._to))
            self._open |= {client, server}
            up = threading.Thread(target=self._pass_up, args=(client, server), daemon=True)
            up.start()
            self._pass_down(server, client)
        except OSError:
            pass
        finally:
            for end in (client, server):
                if end is not None:
                    _end(end)

    def _pass_up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self.requests += data.count(b"POST /")
                if not self.is_silent:
                    server.sendall(data)
        _end(server)

    def _pass_down(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        while data := server.recv(1 << 16):
            passed += len(data)
            if self.cut_after is not None and passed > self.cut_after:
                client.sendall(data[: len(data) - (passed - self.cut_after)])
                return
            client.sendall(data)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        end.close()
