"""The live page of a run: a sink that keeps the newest of everything, and a server for browsers.

    the loop's thread      takes down a few numbers, four times a second for each source
    edge.outputs.web.stills  encodes pictures, while somebody looks at them
    edge.outputs.web.server    answers from what lies there

The page asks again and again instead of being sent a stream: what it gets is always the newest,
a phone that slept goes on by itself, and whoever reads slowly keeps nothing waiting.
"""

from __future__ import annotations

import json
import math
import secrets
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from edge.outputs.web.access import Access, parse_address
from edge.outputs.web.history import History
from edge.outputs.web.server import Reply, Server
from edge.outputs.web.stills import Pictures
from edge.run.interfaces import Result, Sink
from edge.run.status import Status, Transition

__all__ = ["Web"]

_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src blob: data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_LOCKED = b"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>vit-edge</title>
<h1>This page needs its token</h1>
<p>Open the whole address that edge run printed, or type the token:</p>
<form><input name="token" type="password" aria-label="token" autocomplete="current-password">
<button>Open</button></form></html>
"""
_HTML, _JSON = "text/html; charset=utf-8", "application/json"


class Web(Sink):
    """Serves the page from the moment it is made until it is closed.

    url  what to type into a browser; it holds the token if that was made here

    Raises AddressError when `address`, `[HOST]:PORT`, cannot be listened on, or `token` is weak.
    """

    def __init__(self, address: str, status: Status, token: str = ""):
        host, port = parse_address(address)
        self._access = Access.decide(host, token)
        self._page = Path(__file__).with_name("page.html").read_text("utf-8")
        self._record = History(status)
        self._pictures = Pictures()
        try:
            self._server = Server("the page", host, port, self._answer)
        except BaseException:
            self._pictures.close()
            raise
        self.url = self._access.url(self._server.port)

    def write(self, result: Result) -> None:
        self._record.write(result)
        if self._pictures.wants(result.frame.source):
            self._pictures.put(result.frame, self._record.about(result))

    def changed(self, transition: Transition) -> None:
        self._record.changed(transition)

    def close(self) -> None:
        """Stop listening, hang up, and let go of all frames; within a second."""
        self._server.close()
        self._pictures.close()

    def _answer(self, path: str, headers: Message) -> Reply:
        """The reply to a request, on one of many threads."""
        if not self._access.knows_host(headers.get("Host", "")):
            return _reply(HTTPStatus.MISDIRECTED_REQUEST, b"this server has another name\n")
        route, _, asked = path.partition("?")
        query = {name: values[-1] for name, values in parse_qs(asked).items()}
        if route == "/" and self._access.opens(query.get("token", "")):
            # Not redirected: after a link from elsewhere a strict cookie would not come with that.
            cookie = f"{self._access.cookie}; Path=/; HttpOnly; SameSite=Strict"
            return self._show({"Set-Cookie": cookie})
        if not self._access.admits(headers.get("Cookie", "")):
            body = (_LOCKED, _HTML) if route == "/" else (b"open the page first\n",)
            return _reply(HTTPStatus.UNAUTHORIZED, *body)
        if route == "/":
            return self._show({})
        if route == "/state":
            return self._state(query.get("run", ""), query.get("since", ""))
        if route == "/picture" and self._record.knows(query.get("source", "")):
            return self._picture(query["source"], query.get("have", ""))
        return _reply(HTTPStatus.NOT_FOUND, b"there is nothing here\n")

    def _show(self, headers: dict[str, str]) -> Reply:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": _POLICY.format(nonce)}
        body = self._page.replace("{nonce}", nonce).encode()
        return _reply(HTTPStatus.OK, body, _HTML, headers | policy)

    def _state(self, run: str, since: str) -> Reply:
        try:
            seconds = float(since)
        except ValueError:
            seconds = -math.inf
        return _reply(HTTPStatus.OK, json.dumps(self._record.state(run, seconds)).encode(), _JSON)

    def _picture(self, source: str, have: str) -> Reply:
        """The newest picture of a source, with what is told of it in a header, if it is not `have`.

        In one reply, since a label beside another picture would be a wrong one.
        """
        picture = self._pictures.newest(source)
        if picture is None or str(picture.number) == have:
            return _reply(HTTPStatus.NO_CONTENT)
        about = json.dumps({**picture.about, "number": picture.number, "problem": picture.problem})
        return _reply(HTTPStatus.OK, picture.jpeg, "image/jpeg", {"Edge-Result": about})


def _reply(
    status: HTTPStatus,
    body: bytes = b"",
    kind: str = "text/plain; charset=utf-8",
    headers: dict[str, str] | None = None,
) -> Reply:
    return Reply(status, body, kind, _ALWAYS | (headers or {}))
