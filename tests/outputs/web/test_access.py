"""Access control of the live page."""

from __future__ import annotations

import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from edge.errors import AddressError
from edge.outputs.web.access import Access, accepts_host, parse_address

CHOSEN = "a chosen token; with any character ü"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", ("127.0.0.1", 8080)),
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::]:8080", ("::", 8080)),
        ("[::1]:1", ("::1", 1)),
        ("camera.local:8080", ("camera.local", 8080)),
    ],
)
def test_the_default_host_of_an_address_is_loopback(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        "joe@host:80",
        "http://host:80",
        "[host]:80",
        ":65536",
        ":-1",
        "::1:80",
        ":²",
        "٣",
        ":٣x",
        ":" + "9" * 5000,
    ],
)
def test_an_invalid_address_is_refused_with_examples(text):
    with pytest.raises(AddressError, match=r"write, for example, :8080"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token_unless_one_was_set(host):
    assert Access.decide(host, "").admits("")
    assert not Access.decide(host, CHOSEN).admits("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.local"])
def test_other_addresses_need_a_token_and_each_run_generates_its_own(host):
    one, other = Access.decide(host, ""), Access.decide(host, "")
    assert one.token != other.token
    assert len(one.token) >= 32
    assert not one.admits("")
    assert not one.is_token("")
    assert not one.is_token(other.token)
    assert one.is_token(one.token)


def test_the_cookie_does_not_contain_the_token():
    access = Access.decide("0.0.0.0", CHOSEN)
    assert access.is_token(CHOSEN)
    assert CHOSEN not in access.cookie
    assert access.cookie.isascii()
    assert access.admits(access.cookie)
    assert access.admits(f"other=1; {access.cookie}; broken; more=ü")
    assert not access.admits(access.cookie[:-1])
    assert not access.admits(f"{CHOSEN}; token={CHOSEN}")


def test_runs_on_the_same_host_have_different_cookie_names():
    names = {Access.decide("::", "").cookie.partition("=")[0] for _ in range(2)}
    assert len(names) == 2, "browsers share cookies between ports"


def test_a_short_token_is_refused_and_not_shown():
    with pytest.raises(
        AddressError, match=r"fewer than 16 .* EDGE_WEB_TOKEN=\$\(openssl"
    ) as caught:
        Access.decide("127.0.0.1", "secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "header", ["127.0.0.1:8080", "localhost:9000", "LOCALHOST", "[::1]:80", "[::1]", "127.0.0.1"]
)
def test_loopback_names_are_accepted_as_host_with_any_port(header):
    """A tunnel such as `ssh -L 9000:127.0.0.1:8080` has a different port."""
    assert accepts_host("127.0.0.1", header)


@pytest.mark.parametrize(
    "header", ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example:80", "localhost.x"]
)
def test_other_names_are_refused_as_host_on_loopback(header):
    assert not accepts_host("127.0.0.1", header)
    assert accepts_host("0.0.0.0", header), "on other addresses the token protects the page"


def test_the_url_contains_the_token_only_if_it_was_generated():
    access = Access.decide("192.168.1.5", "")
    url = urlsplit(access.url(81))
    assert (url.hostname, url.port) == ("192.168.1.5", 81)
    assert parse_qs(url.query) == {"token": [access.token]}
    assert Access.decide("192.168.1.5", CHOSEN).url(80) == "http://192.168.1.5:80/"
    assert Access.decide("127.0.0.1", "").url(80) == "http://127.0.0.1:80/"
    assert Access.decide("::1", "").url(80) == "http://[::1]:80/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_url_of_a_wildcard_address_names_this_machine(host):
    named = urlsplit(Access.decide(host, "").url(80)).hostname
    assert named
    assert named not in ("0.0.0.0", "::")


def test_without_a_network_the_url_has_the_host_name(monkeypatch):
    def unreachable(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert urlsplit(Access.decide("0.0.0.0", "").url(80)).hostname == socket.gethostname().lower()
