"""A small HTTP server that can be left alone: it answers GET, slowly if it must, and ends at once.

It is the standard library's, with a thread for each connection, so that a board needs nothing
more. An asyncio server (aiohttp, uvicorn) could hold thousands of slow clients; here they are few
by rule: what bounds them is how many there are, how often all of them may ask, and how long one
request may take. It is answered from what is at hand: no answer is ever a stream.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, TypeAlias

from edge.errors import AddressError

__all__ = ["Answer", "Reply", "Server"]

CLIENTS = 128  # connections at once; a browser that shows the page has two
PER_SECOND = 100  # requests answered, of all clients together: some percent of one core
PATIENCE = 10.0  # seconds that a client may take to send a request and to read the answer
_POLL = 0.05  # seconds between two looks at who has no more time
_CLOSING = 0.8  # seconds for all threads to end
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """An answer; `kind` is its media type."""

    status: HTTPStatus
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


# The path with its query, and the headers -> the reply; called on many threads.
Answer: TypeAlias = Callable[[str, Message], Reply]


class Server:
    """Listens and answers from the moment it is made until it is closed.

    port: 0 takes any that is free. Raises AddressError when `what` cannot listen there.
    """

    def __init__(self, what: str, host: str, port: int, answer: Answer):
        try:
            self._listener = _Listener(host, port, answer)
        except (OSError, UnicodeError) as error:  # a name may be none that DNS can hold
            raise _refused(what, host, port, error) from error
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(_POLL,), name=what, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End every connection and thread, within a second."""
        deadline = time.monotonic() + _CLOSING
        self._listener.shutdown()
        self._listener.server_close()
        for thread in [self._thread, *self._listener.hang_up()]:
            thread.join(max(0.0, deadline - time.monotonic()))


def _refused(what: str, host: str, port: int, error: Exception) -> AddressError:
    hint = f"give an address of this machine, such as :{port}; ip address lists them"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        hint = f"choose another port, such as :{port + 1}; ss -ltnp shows who has this one"
    elif isinstance(error, PermissionError):
        hint = "choose a port from 1024 on, such as :8080"
    reason = getattr(error, "strerror", None) or error
    return AddressError(f"{what} cannot listen on {host}, port {port} ({reason})", hint)


class _Pace:
    """Lets the threads of all clients together through `per_second` times a second."""

    def __init__(self, per_second: float):
        self._gap = 1 / per_second
        self._next = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next + self._gap, now)
            delay = self._next - now
        self._ended.wait(delay)

    def end(self) -> None:
        """Nobody waits any more."""
        self._ended.set()


@dataclass
class _Client:
    """A connection's thread, and `time.monotonic()` when its last answer was out."""

    thread: threading.Thread
    since: float


# Not http.server's own class: that one looks up the host's name, for seconds without a network.
class _Listener(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, answer: Answer):
        self.answer = answer
        self.pace = _Pace(PER_SECOND)
        self._clients: dict[socket.socket, _Client] = {}
        self._lock = threading.Lock()
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((str(found[0][4][0]), port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, if there is room for one more."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            room = len(self._clients) < CLIENTS
            if room:
                self._clients[request] = _Client(thread, time.monotonic())
        if room:
            thread.start()
            return
        request.setblocking(False)
        with suppress(OSError):  # turned away, whether it hears of it or not
            request.send(_BUSY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:  # from here on nobody else touches the socket
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def answered(self, request: socket.socket) -> None:
        """A client has read its answer: its time begins anew."""
        with self._lock:
            self._clients[request].since = time.monotonic()

    def service_actions(self) -> None:
        self.hang_up(PATIENCE)

    def hang_up(self, patience: float | None = None) -> list[threading.Thread]:
        """End the connections that took longer than `patience` seconds, or all; their threads.

        It is not left to a timeout of the socket: one letter a second keeps that from ending.
        """
        if patience is None:
            self.pace.end()
        now, ended = time.monotonic(), []
        with self._lock:
            for connection, client in self._clients.items():
                if patience is None or now - client.since > patience:
                    with suppress(OSError):  # the other side was faster
                        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever reads or writes it
                    ended.append(client.thread)
        return ended

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error; anything else is one of ours, and is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"  # a picture does not cost a connection
    server_version, sys_version = "vit-edge", ""
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.pace.wait()
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # a body would be read as the next request
        reply = self.server.answer(self.path, self.headers)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        self.server.answered(self.connection)

    def log_message(self, *_: object) -> None:
        """Nothing: a request's line may hold the token."""
