"""Who may talk to the server: only the page itself, by one of the server's own names.

A page of another site can make a browser send requests to this machine, also under a name of its own that leads here
(DNS rebinding). So Host must be a name of this server, and Origin, where it is sent, must be its page. What changes
something must come with an Origin and with the token, which is made at every start and which only the page knows.

The guard is a plain ASGI application around another: it needs no package.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine for itself."""
TOKEN = "x-actseq-token"
"""Name of the header that holds the token."""
READING = frozenset({"GET", "HEAD"})
LARGEST_BODY = 50 * 10**6
"""Bytes of the largest request."""
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every answer."""


class Guard:
    """Refuses what does not come from the page, and sends `HEADERS` with every answer.

    Args:
        app: the application that gets all other requests.
        names: names under which the server may be reached, without the port.
        port: port of the server.
        token: what a request that changes something must have in the header `TOKEN`.
        private: reading needs the token too, except for the page itself and its files, which say nothing about the run.
    """

    def __init__(self, app: App, names: tuple[str, ...], port: int, token: str, *, private: bool) -> None:
        self.app, self.token, self.private = app, token, private
        self.hosts = frozenset(f"{name}:{port}" for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = (403, "only requests over HTTP are answered") if scope["type"] != "http" else self._refused(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refused is None:
            await self.app(scope, receive, _with_headers(send))
        else:
            await _answer(_with_headers(send), *refused)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason of a refusal; None for a request that is welcome."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        reading, inside = scope["method"] in READING, scope["path"].startswith("/api/")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 403, f"Host is not a name of this server; open one of {', '.join(sorted(self.hosts))}"
        if any(origin not in {f"http://{host}" for host in self.hosts} for origin in origins) or len(origins) > 1:
            return 403, "Origin is another page; only the page of this server may ask"
        if not reading and not origins:
            return 403, "Origin is missing; only the page of this server may change something"
        if (not reading or (self.private and inside)) and not self._knows(headers.get(TOKEN, [])):
            return 403, "the token is missing or from an earlier start; open the address that actseq has printed"
        return None if reading else _refused_body(headers)

    def _knows(self, given: list[str]) -> bool:
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), self.token.encode())


def _refused_body(headers: dict[str, list[str]]) -> tuple[int, str] | None:
    """Status and reason where the size of a request is unknown or too large."""
    sizes = headers.get("content-length", [])
    if "transfer-encoding" in headers or len(sizes) != 1 or not sizes[0].isascii() or not sizes[0].isdigit():
        return 411, "the request does not say how long it is; send it whole, with Content-Length"
    if int(sizes[0]) > LARGEST_BODY:
        return 413, f"the request has {int(sizes[0]) / 1e6:.1f} MB; at most {LARGEST_BODY / 1e6:g} MB are taken"
    return None


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (411, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return sending
