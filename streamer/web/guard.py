"""Access control of the web UI (methods, hosts, the token), and the headers of every response.

A page of another site cannot read the web UI: there is no CORS, its requests carry no cookie of ours
(SameSite=Strict), and a name that it points to our address (DNS rebinding) is not one of our hosts.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamer.base.address import Address, ip_address
from streamer.base.secret import Secret

_COOKIE = "streamer-token"
_PUBLIC = frozenset({"/healthz", "/readyz"})
"""Paths without a token: probes cannot hold one, and the answers contain no data."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self';"
    " manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Default headers of every response."""


class Guard:
    """Middleware that rejects requests without access.

    Args:
        app: The application.
        address: The address that it listens on.
        token: The required token; if empty, none is required.
    """

    def __init__(self, app: ASGIApp, address: Address, token: Secret) -> None:
        self._app = app
        self._hosts = _hosts(address)
        self._any_ip = not address.is_loopback
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        rejection = self._rejection(scope)
        await (rejection or self._app)(scope, receive, _with_headers(send))

    def _rejection(self, scope: Scope) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return _error(405, "only GET and HEAD are answered: nothing can be changed here", {"allow": "GET, HEAD"})
        headers = Headers(scope=scope)
        if not self._is_ours(headers.getlist("host")):
            return _error(421, "this address is not served here: open the one that the daemon has logged")
        if not self._token or scope["path"] in _PUBLIC:
            return None
        return self._login(scope) or self._unauthorized(headers)

    def _is_ours(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = _without_port(hosts[0]).lower()
        # DNS cannot redirect an IP address.
        return name in self._hosts or (self._any_ip and ip_address(name) is not None)

    def _login(self, scope: Scope) -> Response | None:
        """Return the response to ``/?token=``: a redirect that sets the cookie and drops the token from the URL."""
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token") if scope["path"] == "/" else None
        if not shown or not self._is_token(shown[0]):
            return None
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(_COOKIE, self._proof(), httponly=True, samesite="strict", path="/")
        return answer

    def _unauthorized(self, headers: Headers) -> Response | None:
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if (scheme.lower() == "bearer" and self._is_token(shown.strip())) or self._has_proof(headers.get("cookie", "")):
            return None
        words = "a token is needed: open /?token=TOKEN once, or send the header Authorization: Bearer TOKEN"
        return _error(401, words, {"www-authenticate": 'Bearer realm="streamer"'})

    def _is_token(self, shown: str) -> bool:
        return _same(shown, self._token.reveal())

    def _has_proof(self, cookies: str) -> bool:
        try:
            found = SimpleCookie(cookies).get(_COOKIE)
        except CookieError:
            return False
        return found is not None and _same(found.value, self._proof())

    def _proof(self) -> str:
        """Return the value of the cookie: not the token itself, and the same after a restart."""
        return hashlib.sha256(f"streamer page\n{self._token.reveal()}".encode()).hexdigest()


def _hosts(address: Address) -> frozenset[str]:
    if address.is_loopback:
        return _LOOPBACK | {address.host}
    name = socket.gethostname().lower()
    return _LOOPBACK | {address.host, name, name.partition(".")[0], socket.getfqdn().lower()}


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _same(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), secret.encode())


def _error(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": words}, status, headers)


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
