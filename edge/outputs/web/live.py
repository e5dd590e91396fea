"""The live page of a run: a sink that keeps the newest results, and their HTTP routes.

    the loop's thread        stores a few numbers, four times a second per source
    edge.outputs.web.stills  encodes images while somebody views them
    edge.outputs.web.server  answers requests from the stored data

The page polls instead of receiving a stream: it always gets the newest data, it recovers by itself
after a phone was asleep, and a slow client blocks nothing.
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
from edge.outputs.web.stills import Stills
from edge.run.interfaces import Result, Sink
from edge.run.status import Status, Transition

__all__ = ["LivePage"]

_SECURITY_HEADERS = {
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
_LOGIN_PAGE = b"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>vit-edge</title>
<h1>This page needs a token</h1>
<p>Open the complete URL that edge run printed, or enter the token:</p>
<form><input name="token" type="password" aria-label="token" autocomplete="current-password">
<button>Open</button></form></html>
"""
_HTML, _JSON = "text/html; charset=utf-8", "application/json"


class LivePage(Sink):
    """Serves the live page from its construction until it is closed.

    url    the URL for a browser; it contains the token if that was generated here
    fired  function (result, rules): shows that rules became true with a result

    The constructor raises AddressError when it cannot listen on `address`, `[HOST]:PORT`, or when
    `token` is too short.
    """

    def __init__(self, address: str, status: Status, token: str = "", engine: str = ""):
        """engine: its name and precision, which the page shows."""
        host, port = parse_address(address)
        self._access = Access.decide(host, token)
        self._page = Path(__file__).with_name("page.html").read_text("utf-8")
        self._history = History(status, engine)
        self.fired = self._history.fired
        self._stills = Stills()
        try:
            self._server = Server("the page", host, port, self._answer)
        except BaseException:
            self._stills.close()
            raise
        self.url = self._access.url(self._server.port)

    def write(self, result: Result) -> None:
        self._history.write(result)
        if self._stills.wants(result.frame.source):
            self._stills.put(result.frame, self._history.about(result))

    def changed(self, transition: Transition) -> None:
        self._history.changed(transition)

    def close(self) -> None:
        """Stop listening, close all connections and release all frames, within a second."""
        self._server.close()
        self._stills.close()

    def _answer(self, path: str, headers: Message) -> Reply:
        """The reply to a request; called on the thread of its connection."""
        route, _, parameters = path.partition("?")
        query = {name: values[-1] for name, values in parse_qs(parameters).items()}
        if route == "/" and self._access.is_token(query.get("token", "")):
            # No redirect: after a link from another site browsers would not send a strict cookie.
            cookie = f"{self._access.cookie}; Path=/; HttpOnly; SameSite=Strict"
            return self._page_reply({"Set-Cookie": cookie})
        if not self._access.admits(headers.get("Cookie", "")):
            body = (_LOGIN_PAGE, _HTML) if route == "/" else (b"open the page first\n",)
            return _reply(HTTPStatus.UNAUTHORIZED, *body)
        if route == "/":
            return self._page_reply({})
        if route == "/state":
            return self._state_reply(query.get("run", ""), query.get("since", ""))
        if route == "/picture" and self._history.knows(query.get("source", "")):
            return self._picture_reply(query["source"], query.get("have", ""))
        return _reply(HTTPStatus.NOT_FOUND, b"not found\n")

    def _page_reply(self, headers: dict[str, str]) -> Reply:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": _POLICY.format(nonce)}
        body = self._page.replace("{nonce}", nonce).encode()
        return _reply(HTTPStatus.OK, body, _HTML, headers | policy)

    def _state_reply(self, run: str, since: str) -> Reply:
        try:
            seconds = float(since)
        except ValueError:
            seconds = -math.inf
        return _reply(HTTPStatus.OK, json.dumps(self._history.state(run, seconds)).encode(), _JSON)

    def _picture_reply(self, source: str, have: str) -> Reply:
        """The newest image of a source, with its label in a header; 204 if its number is `have`.

        Image and label are in one reply, so that they always belong together.
        """
        still = self._stills.newest(source)
        if still is None or str(still.number) == have:
            return _reply(HTTPStatus.NO_CONTENT)
        about = json.dumps({**still.about, "number": still.number, "problem": still.problem})
        return _reply(HTTPStatus.OK, still.jpeg, "image/jpeg", {"Edge-Result": about})


def _reply(
    status: HTTPStatus,
    body: bytes = b"",
    kind: str = "text/plain; charset=utf-8",
    headers: dict[str, str] | None = None,
) -> Reply:
    return Reply(status, body, kind, _SECURITY_HEADERS | (headers or {}))
