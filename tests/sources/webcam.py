"""Cameras to test against, on loopback: one on the web, and one that agrees and sends nothing."""

from __future__ import annotations

import base64
import http.server
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

BOUNDARY = "picture"


@dataclass(frozen=True)
class Form:
    """How a camera sends its JPEGs: what stands before the first and around each.

    burst  this many at once, as a network delivers them after a delay
    """

    head: bytes = b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n"
    tail: bytes = b"\r\n"
    begin: bytes = b""
    burst: int = 1


FORMS = {
    "": Form(),
    "burst": Form(burst=4),
    "image-jpg": Form(Form.head.replace(b"jpeg", b"jpg")),
    "parameters": Form(Form.head.replace(b"jpeg", b"jpeg; charset=binary")),
    "no-length": Form(b"--picture\r\nContent-Type: image/jpeg\r\n\r\n"),
    "type-last": Form(b"--picture\r\nContent-Length: LENGTH\r\nContent-Type: image/jpeg\r\n\r\n"),
    # Of the ESP32: the boundary ends a part.
    "esp32": Form(
        b"Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n",
        b"\r\n--picture\r\n",
        b"\r\n--picture\r\n",
    ),
    "bare": Form(b"", b""),  # without parts
    "bare-burst": Form(b"", b"", burst=4),
}


class _Web(http.server.BaseHTTPRequestHandler):
    """`/video` is its stream, `/page` its settings, `/500` and such are answered so.

    `/video/FORM` is the stream as some cameras send it, see `FORMS`.
    """

    server: Any

    def do_GET(self) -> None:
        wanted = self.server.login and "Basic " + base64.b64encode(self.server.login).decode()
        if wanted and self.headers["Authorization"] != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/video"):
            self.send_response(200)
            form = FORMS[self.path.split("?")[0].removeprefix("/video").removeprefix("/")]
            kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}" if form.head else "video/mjpeg"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self._stream(form)
        elif self.path.startswith("/page"):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><html><body>Settings</body></html>" * 40)
        else:
            self.send_response(int(self.path[1:4]) if self.path[1:4].isdigit() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _stream(self, form: Form) -> None:
        """The pictures, 30 a second, until the client has enough or the server stops."""
        number = 0
        try:
            self.wfile.write(form.begin)
            while not self.server.stopped.wait(form.burst / 30):
                sent = b""
                for _ in range(form.burst):
                    picture = self.server.pictures[number % len(self.server.pictures)]
                    sent += form.head.replace(b"LENGTH", b"%d" % len(picture)) + picture + form.tail
                    number += 1
                self.wfile.write(sent)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr is the test's."""


@contextmanager
def webcam(
    pictures: list[bytes], *, login: bytes = b"", context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve JPEGs as a stream of parts; its root's URL. login: the USER:PASSWORD to ask for."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.daemon_threads = True
    server.pictures, server.login, server.stopped = pictures, login, threading.Event()
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http{'s' * (context is not None)}://127.0.0.1:{server.server_port}"
    server.stopped.set()
    server.shutdown()
    server.server_close()


SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)


class _Mute(socketserver.StreamRequestHandler):
    """RTSP as far as PLAY; of what was agreed upon then, nothing comes."""

    server: Any

    def handle(self) -> None:
        while verb := self.rfile.readline().decode().partition(" ")[0]:
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            status, extra, body = self.server.statuses.get(verb, "200 OK"), "Session: 1\r\n", ""
            if status != "200 OK":
                pass
            elif verb == "DESCRIBE":
                body = SDP
                extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif verb == "SETUP":
                asked = headers["transport"]
                extra += f"Transport: {asked};server_port=50000-50001\r\n"
                if self.server.refuses_tcp and "TCP" in asked:
                    status = "461 Unsupported Transport"
            reply = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{extra}\r\n{body}"
            self.wfile.write(reply.encode())


@contextmanager
def mute_camera(
    *, refuses_tcp: bool = False, statuses: Mapping[str, str] | None = None
) -> Iterator[str]:
    """An RTSP camera of which no packet arrives, as behind a firewall; its URL.

    statuses: what it answers to a method, such as {"DESCRIBE": "403 Forbidden"}.
    """
    server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mute)
    server.daemon_threads = True
    server.refuses_tcp, server.statuses = refuses_tcp, statuses or {}
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"rtsp://127.0.0.1:{server.server_address[1]}/stream"
    server.shutdown()
    server.server_close()
