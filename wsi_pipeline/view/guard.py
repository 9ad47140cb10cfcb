"""Requests -> the same requests, if they may be answered; answers -> answers with safe headers.

Any page a person has open can send requests to a server on the same machine. This stands before
the page's own server and turns away whatever did not come from the page itself.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")

SAFE_METHODS = frozenset({"GET", "HEAD"})

COOKIE = "wsi-pipeline-token"

OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="
"""The one inline style: OpenSeadragon's, for touch screens, by its hash."""

HEADERS = {
    # nothing but the page's own files, no inline script, no other site, no frame around it
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    f"style-src 'self' '{OPENSEADRAGON_STYLE}'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Stands before an application.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    hosts : collection of str
        Names the server may be asked for by, without a port. Any other is the trick of a site
        whose name was made to lead here.
    token : str or None
        Secret that the first address opened must carry; none is asked for if None.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = LOOPBACK, token: str | None = None
    ) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is served; the server closes the connection
        headers = Headers(scope=scope)
        refusal = self._refuse(scope, headers)
        answer: ASGIApp
        if refusal is not None:
            answer = PlainTextResponse(refusal, status_code=403)
        elif self._token is not None and self._brings_token(scope):
            answer = self._remember(scope)
        elif self._token is not None and not self._knows_token(headers):
            answer = PlainTextResponse(
                "open the address that 'wsi-pipeline view' printed, with its token", status_code=401
            )
        else:
            answer = self._app
        await answer(scope, receive, _with_headers(send))

    def _refuse(self, scope: Scope, headers: Headers) -> str | None:
        """Say why a request is turned away, if it is."""
        if _hostname(headers.get("host", "")) not in self._hosts:
            return "this server is not known by that name; add it with --host"
        if scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers["host"]:
            return "only the page itself may change labels"
        if not headers.get("content-type", "").startswith("application/json"):
            return "changes are sent as application/json"  # a form of another site cannot
        return None

    def _brings_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return bool(given) and self._is_token(given[0])

    def _knows_token(self, headers: Headers) -> bool:
        cookie: SimpleCookie = SimpleCookie()
        try:
            cookie.load(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookie and self._is_token(cookie[COOKIE].value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())

    def _remember(self, scope: Scope) -> RedirectResponse:
        """Hand the secret over as a cookie, so that it leaves the address bar and its history."""
        response = RedirectResponse(scope["path"], status_code=303)
        response.set_cookie(COOKIE, self._token or "", httponly=True, samesite="strict")
        return response


def _hostname(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def send_safely(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_safely
