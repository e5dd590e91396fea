"""LivePage over real HTTP: access, replies, and that it never blocks the loop."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from edge.errors import AddressError
from edge.outputs.web import stills
from edge.outputs.web.live import LivePage
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Status, Transition
from edge.sources.frame import Frame

CAMERA = "rtsp://***@camera/1?a=b&c=ü"
ROUTES = ["/", "/state", f"/picture?source={quote(CAMERA)}", "/nothing", "/favicon.ico"]
PATIENCE = 30.0  # seconds: the machine may be busy with other tests


@pytest.fixture
def status() -> Status:
    status = Status("fake", "system memory")
    status.add(CAMERA)
    return status


@pytest.fixture
def serve(status: Status) -> Iterator[Callable[..., LivePage]]:
    pages: list[LivePage] = []

    def make(address: str = ":0", token: str = "") -> LivePage:
        pages.append(LivePage(address, status, token))
        return pages[-1]

    yield make
    for page in pages:
        page.close()


def get(web: LivePage, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    port = urlsplit(web.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply, reply.read()
    finally:
        connection.close()


def result(guess: Any, number: int = 0, level: int = 200) -> Result:
    pixels = np.full((24, 32, 3), level, np.uint8)
    frame = Frame(CAMERA, number, None, 0.0, "system", Surface.from_rgb(pixels))
    return Result(frame, guess(7), 20.0, 10.0, 0.0)


def picture(web: LivePage, guess: Any, level: int, have: str = "") -> tuple[dict[str, Any], bytes]:
    """Feed the page until it has a picture other than `have`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        web.write(result(guess, level=level))
        reply, body = get(web, f"/picture?source={quote(CAMERA)}&have={have}")
        if reply.status == 200:
            return json.loads(reply.headers["Edge-Result"]), body
        assert (reply.status, body) == (204, b"")
        assert time.monotonic() < deadline


def test_the_page_loads_nothing_from_other_hosts(serve):
    reply, body = get(serve(), "/")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Set-Cookie"] is None, "no token is needed"
    outside = re.findall(
        r"""(?:src|href|url|import)\s*[=(]?\s*["'](https?:|//)[^"']*""", body.decode()
    )
    assert outside == []


def test_only_the_page_s_own_script_and_style_are_allowed(serve):
    web = serve()
    nonces = set()
    for _ in range(2):
        reply, body = get(web, "/")
        policy = reply.headers["Content-Security-Policy"]
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert body.decode().count(f'nonce="{nonce}"') == 2, "its script and its style"
        nonces.add(nonce)
    assert len(nonces) == 2


@pytest.mark.parametrize("path", ROUTES)
def test_replies_are_not_cached_and_not_readable_by_other_sites(serve, path):
    reply, _ = get(serve(), path, Origin="http://evil.example")
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Access-Control-Allow-Origin"] is None
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ROUTES)
def test_without_the_token_every_route_returns_401(serve, path):
    web = serve("0.0.0.0:0")
    for headers in ({}, {"Cookie": "vit-edge-00000000=0"}, {"Authorization": "Bearer x"}):
        reply, body = get(web, path, **headers)
        assert reply.status == 401
        assert b"camera" not in body
        assert reply.headers["Set-Cookie"] is None


@pytest.mark.parametrize(
    "path", ["/state?token={}", "/picture?token={}", "/?token={}x", "/?token="]
)
def test_only_the_complete_token_on_the_page_route_is_accepted(serve, path):
    web = serve("0.0.0.0:0")
    token = urlsplit(web.url).query.removeprefix("token=")
    assert len(token) >= 32
    assert get(web, path.format(token))[0].status == 401


def test_the_printed_url_sets_a_cookie_that_gives_access_to_all_routes(serve):
    web = serve("0.0.0.0:0")
    printed = urlsplit(web.url)
    reply, body = get(web, f"{printed.path}?{printed.query}")
    assert reply.status == 200
    assert b"<script" in body
    cookie, *rest = reply.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(rest)
    assert printed.query.removeprefix("token=") not in cookie
    for path in ROUTES:
        assert get(web, path, Cookie=cookie)[0].status != 401


def test_a_chosen_token_is_required_on_loopback_and_not_printed(serve):
    token = "a token + with & special characters"
    web = serve(token=token)
    assert web.url.endswith("/")
    assert get(web, "/state")[0].status == 401
    reply, _ = get(web, f"/?token={quote(token)}")
    assert reply.status == 200
    assert get(web, "/state", Cookie=reply.headers["Set-Cookie"].split(";")[0])[0].status == 200


@pytest.mark.parametrize("path", ROUTES)
def test_an_unknown_host_name_gets_421(serve, path):
    reply, body = get(serve(), path, Host="evil.example")
    assert reply.status == 421
    assert b"camera" not in body


def test_the_state_route_returns_the_current_state(serve, status, guess):
    web = serve()
    change = Transition(CAMERA, "waiting", "it hung up")
    status.change(change)
    web.changed(change)
    web.write(result(guess))
    state = json.loads(get(web, "/state")[1])
    (source,) = state["sources"]
    assert (source["name"], source["state"], source["reason"]) == (CAMERA, "waiting", "it hung up")
    assert source["top"][0] == ["class 7", 0.75]
    again = json.loads(get(web, f"/state?run={state['run']}&since={state['now']}")[1])
    assert (len(source["points"]), len(again["sources"][0]["points"])) == (1, 0)


@pytest.mark.parametrize("since", ["", "x", "nan", "-inf", "1e999", "%00"])
def test_invalid_parameters_and_paths_get_a_reply(serve, since):
    assert get(serve(), f"/state?run=x&since={since}&since")[0].status == 200
    assert get(serve(), f"//[?{since}")[0].status == 404


def test_an_image_is_returned_with_its_own_label(serve, guess):
    web = serve()
    about, body = picture(web, guess, 40)
    with Image.open(io.BytesIO(body)) as shown:
        assert abs(np.asarray(shown).mean() - 40) < 3
    assert about["top"][0] == ["class 7", 0.75]
    assert about["problem"] == ""
    later, body = picture(web, guess, 220, have=str(about["number"]))
    assert later["number"] > about["number"]
    assert later["at"] > about["at"]


def test_without_a_viewer_one_image_is_encoded_every_few_seconds(serve, guess, monkeypatch):
    encoded = []
    encode = stills._encode
    monkeypatch.setattr(stills, "_encode", lambda frame: encoded.append(1) or encode(frame))
    web = serve()
    for _ in range(100):
        web.write(result(guess))
    get(web, "/state")
    assert len(encoded) <= 1
    about, _ = picture(web, guess, 1)
    picture(web, guess, 1, have=str(about["number"]))
    assert len(encoded) > 1


def test_the_image_of_an_unknown_source_is_404(serve):
    web = serve()
    for number in range(3):
        assert get(web, f"/picture?source=other{number}")[0].status == 404
    assert get(web, "/picture")[0].status == 404


def test_many_clients_and_some_that_never_read_do_not_block_the_loop(serve, guess):
    web = serve()
    port = urlsplit(web.url).port
    ended = threading.Event()
    replies: list[int] = []

    def observe() -> None:
        while not ended.is_set():
            replies.append(get(web, "/state")[0].status)
            replies.append(get(web, f"/picture?source={quote(CAMERA)}")[0].status)

    viewers = [threading.Thread(target=observe) for _ in range(50)]
    for viewer in viewers:
        viewer.start()
    unread = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for client in unread:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
    waits = []
    for number in range(200):
        began = time.monotonic()
        web.write(result(guess, number))
        waits.append(time.monotonic() - began)
        time.sleep(0.01)
    ended.set()
    for viewer in viewers:
        viewer.join(PATIENCE)
    for client in unread:
        client.close()
    assert sorted(waits)[len(waits) // 2] < 0.05, "a write only stores data"
    assert len(replies) > 50
    assert set(replies) <= {200, 204}


def test_close_takes_less_than_a_second_with_connected_clients(serve, guess):
    web = serve()
    picture(web, guess, 1)
    address = ("127.0.0.1", urlsplit(web.url).port)
    clients = [socket.create_connection(address) for _ in range(20)]
    began = time.monotonic()
    web.close()
    assert time.monotonic() - began < 1.5  # on a busy machine
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        get(web, "/")


@pytest.mark.parametrize(("address", "token"), [("8080x", ""), ("{}", ""), (":0", "short")])
def test_a_failed_start_leaves_no_thread(serve, status, address, token):
    taken = urlsplit(serve().url).port
    before = threading.active_count()
    with pytest.raises(AddressError):
        LivePage(address.format(f":{taken}"), status, token)
    assert threading.active_count() == before
