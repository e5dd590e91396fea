"""A small HTTP server for GET requests with bounded resources and a fast shutdown.

It is the standard library's server with one thread per connection, so that a board needs no further
packages. An asyncio server (aiohttp, uvicorn) could serve thousands of slow clients; this one
limits the number of clients, the total request rate and the time per request. It answers from
stored data and never streams.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, TypeAlias

from edge.errors import AddressError
from edge.outputs.web.access import accepts_host

__all__ = ["Answer", "Reply", "Server"]

MAX_CLIENTS = 128  # simultaneous connections; a browser that shows the page has two
REQUESTS_PER_SECOND = 100  # of all clients together; this takes a few percent of one core
CLIENT_TIMEOUT = 10.0  # seconds for a client to send a request and to read the answer
_POLL = 0.05  # seconds between two checks of the timeouts
_CLOSE_TIMEOUT = 0.8  # seconds for all threads to end
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """An HTTP response; `kind` is its media type."""

    status: HTTPStatus
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


# The path with its query, and the headers -> the reply; called on many threads.
Answer: TypeAlias = Callable[[str, Message], Reply]


class Server:
    """Listens and answers from its construction until it is closed.

    what: name of the service in errors. port: 0 selects a free one. answer: makes the replies.
    On loopback only requests are answered that name the host as such (`accepts_host`). Raises
    AddressError when it cannot listen at this address.
    """

    def __init__(self, what: str, host: str, port: int, answer: Answer):
        try:
            self._listener = _Listener(host, port, answer)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot encode
            raise _listen_error(what, host, port, error) from error
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(_POLL,), name=what, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Close all connections and end all threads, within a second."""
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        self._listener.shutdown()
        self._listener.server_close()
        for thread in [self._thread, *self._listener.disconnect()]:
            thread.join(max(0.0, deadline - time.monotonic()))


def _listen_error(what: str, host: str, port: int, error: Exception) -> AddressError:
    hint = f"use an address of this machine, such as :{port}; `ip address` lists them"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        hint = f"choose another port, such as :{port + 1}; `ss -ltnp` shows what uses this one"
    elif isinstance(error, PermissionError):
        hint = "choose a port from 1024 on, such as :8080"
    reason = getattr(error, "strerror", None) or error
    return AddressError(f"{what} cannot listen on {host}, port {port} ({reason})", hint)


class _RateLimit:
    """Limits the threads of all clients together to `per_second` calls of `wait` per second."""

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
        """Wake all waiting threads; no call waits any more."""
        self._ended.set()


@dataclass
class _Client:
    """The thread of a connection. since: `time.monotonic()` of its start or its last answer."""

    thread: threading.Thread
    since: float


# Not http.server's own class, which resolves the host's name: without a network this takes seconds.
class _Listener(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, answer: Answer):
        self._answer, self._host = answer, host
        self._failed = False
        self.rate_limit = _RateLimit(REQUESTS_PER_SECOND)
        self._clients: dict[socket.socket, _Client] = {}
        self._lock = threading.Lock()
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = addresses[0][0]
        super().__init__((str(addresses[0][4][0]), port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or answer 503 if there are too many."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            is_accepted = len(self._clients) < MAX_CLIENTS
            if is_accepted:
                self._clients[request] = _Client(thread, time.monotonic())
        if is_accepted:
            thread.start()
            return
        request.setblocking(False)
        with suppress(OSError):  # it is disconnected even if this cannot be sent
            request.send(_BUSY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:  # from here on no other thread uses the socket
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def answered(self, request: socket.socket) -> None:
        """A client has read its answer: restart its timeout."""
        with self._lock:
            self._clients[request].since = time.monotonic()

    def service_actions(self) -> None:
        self.disconnect(CLIENT_TIMEOUT)

    def disconnect(self, timeout: float | None = None) -> list[threading.Thread]:
        """Close the connections that exceed `timeout` seconds, or all; return their threads.

        A timeout of the socket would not do: a client that sends one byte per second resets it.
        """
        if timeout is None:
            self.rate_limit.end()
        now, ended = time.monotonic(), []
        with self._lock:
            for connection, client in self._clients.items():
                if timeout is None or now - client.since > timeout:
                    with suppress(OSError):  # the client has closed it already
                        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that uses it
                    ended.append(client.thread)
        return ended

    def answer(self, path: str, headers: Message) -> Reply:
        """The reply to a request: never an exception."""
        if not accepts_host(self._host, headers.get("Host", "")):
            return Reply(HTTPStatus.MISDIRECTED_REQUEST, b"unknown host name\n")
        try:
            return self._answer(path, headers)
        except Exception:
            if not self._failed:  # a client that repeats its request must not fill the journal
                traceback.print_exc()
            self._failed = True
            return Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; report any other exception, which is a bug."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"  # keep-alive: no new connection for each image
    server_version, sys_version = "vit-edge", ""
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.rate_limit.wait()
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # otherwise a body would be read as the next request
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
        """Log nothing: a request line may contain the token."""
