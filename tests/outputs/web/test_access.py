"""Who may look at the live page."""

from __future__ import annotations

import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from edge.errors import AddressError
from edge.outputs.web.access import Access, parse_address

CHOSEN = "chosen by a person; with any letter ü"


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
def test_an_address_without_a_host_is_this_machine_alone(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "host", "host:", ":65536", ":-1", "::1:80", ":²", "٣", ":٣x", ":" + "9" * 5000],
)
def test_what_is_no_address_is_refused_with_one_that_is(text):
    with pytest.raises(AddressError, match=r"write, for example, :8080"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_token_unless_one_was_chosen(host):
    assert Access.decide(host, "").admits("")
    assert not Access.decide(host, CHOSEN).admits("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.local"])
def test_the_network_needs_a_token_and_each_run_makes_its_own(host):
    one, other = Access.decide(host, ""), Access.decide(host, "")
    assert one.token != other.token
    assert len(one.token) >= 32
    assert not one.admits("")
    assert not one.opens("")
    assert not one.opens(other.token)
    assert one.opens(one.token)


def test_a_token_becomes_a_cookie_that_does_not_hold_it():
    access = Access.decide("0.0.0.0", CHOSEN)
    assert access.opens(CHOSEN)
    assert CHOSEN not in access.cookie
    assert access.cookie.isascii()
    assert access.admits(access.cookie)
    assert access.admits(f"other=1; {access.cookie}; broken; more=ü")
    assert not access.admits(access.cookie[:-1])
    assert not access.admits(f"{CHOSEN}; token={CHOSEN}")


def test_runs_on_one_host_do_not_take_each_others_cookies_away():
    names = {Access.decide("::", "").cookie.partition("=")[0] for _ in range(2)}
    assert len(names) == 2, "cookies know no ports"


def test_a_token_that_can_be_guessed_is_refused():
    with pytest.raises(AddressError, match=r"fewer than 16 .* EDGE_WEB_TOKEN=\$\(openssl") as told:
        Access.decide("127.0.0.1", "secret")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "header", ["127.0.0.1:8080", "localhost:9000", "LOCALHOST", "[::1]:80", "[::1]", "127.0.0.1"]
)
def test_this_machine_is_known_by_its_own_names_at_any_port(header):
    """A tunnel such as `ssh -L 9000:127.0.0.1:8080` has a port of its own."""
    assert Access.decide("127.0.0.1", "").knows_host(header)


@pytest.mark.parametrize(
    "header", ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example:80", "localhost.x"]
)
def test_a_name_that_somebody_pointed_to_this_machine_is_not_its_own(header):
    assert not Access.decide("127.0.0.1", "").knows_host(header)
    assert Access.decide("0.0.0.0", "").knows_host(header), "there the token decides"


def test_the_url_holds_a_token_only_if_it_was_made_here():
    made = Access.decide("192.168.1.5", "")
    url = urlsplit(made.url(81))
    assert (url.hostname, url.port) == ("192.168.1.5", 81)
    assert parse_qs(url.query) == {"token": [made.token]}
    assert Access.decide("192.168.1.5", CHOSEN).url(80) == "http://192.168.1.5:80/"
    assert Access.decide("127.0.0.1", "").url(80) == "http://127.0.0.1:80/"
    assert Access.decide("::1", "").url(80) == "http://[::1]:80/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_url_names_this_machine_where_every_address_is_listened_on(host):
    named = urlsplit(Access.decide(host, "").url(80)).hostname
    assert named
    assert named not in ("0.0.0.0", "::")


def test_without_a_network_the_url_has_the_machines_name(monkeypatch):
    def unreachable(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert urlsplit(Access.decide("0.0.0.0", "").url(80)).hostname == socket.gethostname().lower()
