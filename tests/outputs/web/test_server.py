"""The HTTP server over real connections: its limits, and its shutdown."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest

from edge.errors import AddressError
from edge.outputs.web import server as web_server
from edge.outputs.web.server import Reply, Server

LARGE = 50_000_000  # bytes: more than both sockets buffer for a client that does not read
PATIENCE = 30.0  # seconds: the machine may be busy with other tests


def answer(path: str, headers: object) -> Reply:
    if path == "/broken":
        raise RuntimeError("a bug")
    if path == "/large":
        return Reply(HTTPStatus.OK, bytes(LARGE), "application/octet-stream")
    return Reply(HTTPStatus.OK, path.encode(), headers={"X-Test": "yes"})


@pytest.fixture
def start() -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def make() -> Server:
        servers.append(Server("the page", "127.0.0.1", 0, answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def get(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server closes the connection."""
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionError:
        pass
    return True


def test_connections_are_kept_alive(start):
    connection = http.client.HTTPConnection("127.0.0.1", start().port, timeout=PATIENCE)
    for path in ("/a", "/b?c=d"):
        connection.request("GET", path)
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, path.encode())
        assert reply.headers["X-Test"] == "yes"
        assert reply.headers["Server"].strip() == "vit-edge", "without any versions"
    connection.close()


def test_the_body_of_a_request_is_not_read_as_the_next_request(start):
    with connect(start()) as connection:
        inner = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = f"GET /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n"
        connection.sendall(head.encode() + inner)
        reply = b""
        while part := connection.recv(1 << 16):
            reply += part
    assert reply.count(b"HTTP/1.1") == 1
    assert b"smuggled" not in reply


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_than_get_are_refused(start, method):
    connection = http.client.HTTPConnection("127.0.0.1", start().port, timeout=PATIENCE)
    connection.request(method, "/a")
    assert connection.getresponse().status == 501
    connection.close()


def test_an_exception_is_an_answer_and_is_reported_once(start, capfd):
    server = start()
    assert [get(server, "/broken") for _ in range(3)] == [b"internal error\n"] * 3
    assert get(server, "/a") == b"/a"
    assert capfd.readouterr().err.count("RuntimeError: a bug") == 1


def test_a_client_that_disconnects_is_not_reported(start, capfd):
    server = start()
    for _ in range(5):
        with connect(server) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(10)
    assert get(server, "/a") == b"/a"
    server.close()
    assert capfd.readouterr().err == ""


def test_requests_are_not_logged(start, capfd):
    get(start(), "/?token=secret")
    assert "secret" not in "".join(capfd.readouterr())


def test_clients_above_the_limit_get_503_until_another_disconnects(start, monkeypatch):
    monkeypatch.setattr(web_server, "MAX_CLIENTS", 3)
    server = start()
    others = [connect(server) for _ in range(3)]
    with connect(server) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
        assert is_closed(connection)
    others.pop().close()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert get(server, "/a") == b"/a"
            break
        except (http.client.HTTPException, ConnectionError, AssertionError):
            assert time.monotonic() < deadline
    for other in others:
        other.close()


def test_a_client_that_is_silent_slow_or_does_not_read_is_disconnected(start, monkeypatch):
    monkeypatch.setattr(web_server, "CLIENT_TIMEOUT", 0.5)
    server = start()
    with connect(server) as silent, connect(server) as unread, connect(server) as slow:
        unread.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_closed(silent)
        slow.sendall(b"GET /")
        with pytest.raises(OSError):  # a byte now and then does not keep the connection
            for _ in range(int(PATIENCE / 0.1)):
                slow.sendall(b"a")
                time.sleep(0.1)
        deadline = time.monotonic() + PATIENCE
        while any(
            thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()
        ):
            assert time.monotonic() < deadline, (
                "a thread still waits for the client that never reads"
            )
            time.sleep(0.05)


def test_a_client_that_sends_requests_regularly_stays_connected(start, monkeypatch):
    monkeypatch.setattr(web_server, "CLIENT_TIMEOUT", 2.0)
    connection = http.client.HTTPConnection("127.0.0.1", start().port, timeout=PATIENCE)
    connection.connect()
    same = connection.sock
    for _ in range(10):
        connection.request("GET", "/a")
        connection.getresponse().read()
        time.sleep(0.25)
    assert connection.sock is same
    connection.close()


def test_the_total_request_rate_is_limited(start, monkeypatch):
    monkeypatch.setattr(web_server, "REQUESTS_PER_SECOND", 20)
    server = start()
    began = time.monotonic()
    threads = [threading.Thread(target=get, args=(server, "/a")) for _ in range(11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 10 / 20


def test_close_disconnects_all_clients_and_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(web_server, "REQUESTS_PER_SECOND", 0.1)
    before = threading.active_count()
    server = Server("the page", "127.0.0.1", 0, answer)
    clients = [connect(server) for _ in range(20)]
    for client in clients[:10]:  # the first is being answered, the others wait for the rate limit
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    clients[0].recv(1)
    server.close()
    assert threading.active_count() == before
    for client in clients:
        assert is_closed(client)
        client.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_a_port_in_use_is_refused_and_another_one_is_suggested(start):
    port = start().port
    with pytest.raises(AddressError, match=rf"port {port} .*another port, such as :{port + 1}"):
        Server("the page", "127.0.0.1", port, answer)


def test_a_port_is_free_again_immediately():
    server = Server("the page", "127.0.0.1", 0, answer)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    client.request("GET", "/a")
    client.getresponse().read()
    server.close()  # before the client, so that the port is in TIME_WAIT
    assert is_closed(client.sock)
    client.close()
    Server("the page", "127.0.0.1", server.port, answer).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 300])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(AddressError, match=r"cannot listen on .*use an address of this machine"):
        Server("the page", host, 0, answer)


def test_ipv6_is_supported():
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = Server("the page", "::1", 0, answer)
    connection = http.client.HTTPConnection("::1", server.port, timeout=PATIENCE)
    connection.request("GET", "/six")
    assert connection.getresponse().read() == b"/six"
    connection.close()
    server.close()
