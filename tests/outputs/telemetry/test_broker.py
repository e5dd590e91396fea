"""A broker's address, and who it lets in; what is secret is never shown."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import AddressError
from edge.outputs.telemetry.broker import Broker, refusal_reason
from edge.outputs.telemetry.mqtt import Mqtt
from tests.outputs.telemetry.mosquitto import Listener, Mosquitto, wait_until


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://host", Broker("host", 1883, False, "vit-edge")),
        ("mqtts://host/", Broker("host", 8883, True, "vit-edge")),
        ("mqtt://10.0.0.1:1884/site/line1/", Broker("10.0.0.1", 1884, False, "site/line1")),
        ("mqtt://[::1]:1883/a", Broker("::1", 1883, False, "a")),
        ("mqtt://ann@host/a", Broker("host", 1883, False, "a", user="ann")),
        ("mqtt://ann:p%2Fq%40r@host/a%20b", Broker("host", 1883, False, "a b", "ann", "p/q@r")),
    ],
)
def test_an_address_is_host_port_prefix_and_who_we_are(url: str, broker: Broker) -> None:
    assert Broker.from_url(url) == broker


@pytest.mark.parametrize(
    "url",
    ["host:1883", "http://host", "mqtt://", "mqtt://host:no", "mqtt://host:99999", "mqtt:///a"],
)
def test_what_is_no_broker_is_named_with_an_example(url: str) -> None:
    with pytest.raises(AddressError, match=r"is no address of a broker; give mqtt://"):
        Broker.from_url(url)


@pytest.mark.parametrize("prefix", ["a/+", "a#", "a%23", "%2B", "a?b", "$SYS", "a%00"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(AddressError, match="has a prefix that no topic may begin with"):
        Broker.from_url(f"mqtt://host/{prefix}")


def test_user_and_password_are_in_no_text_of_it() -> None:
    broker = Broker.from_url("mqtt://ann:s3cret@host/a")
    assert str(broker) == "MQTT broker host:1883"
    assert "ann" not in repr(broker)
    assert "s3cret" not in repr(broker)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://ann:s3cret@host/+",
        "mqtt://ann:s3cret@",
        "mqtt://ann:12/s3cret@host",  # a slash in a password ends the host, as far as URLs go
        "mqtt://ann:s3/s3cret@host/a",
        "mqtts://ann:s3#s3cret@host/a",
        "ann:s3cret@host",
        "s3cret@host:1883/a",
        "ann:p@s3cret@host",
        "mqtt:ann:s3cret@host",
    ],
)
def test_no_error_about_an_address_shows_its_password(url: str) -> None:
    with pytest.raises(AddressError) as caught:
        Broker.from_url(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


def test_who_has_the_password_is_let_in_and_who_has_not_is_told_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    passwords, said, warned = tmp_path / "passwords", [], []
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann", "p/s3cret"], check=True)
    broker.lines = ["allow_anonymous false", f"password_file {passwords}"]
    broker.start()
    address = f"127.0.0.1:{broker.port}"
    listener = Listener(broker, "ann", "p/s3cret")
    with closing(Mqtt(f"mqtt://ann:wr0ng@{address}/wrong", said.append, warned.append)):
        wait_until(lambda: warned)
    assert warned == [
        f"MQTT broker {address}: it refuses the connection (Not authorized): check user and "
        "password; results wait for it, 1000 at most"
    ], "the last attempt, when it is closed, says no more"
    with closing(Mqtt(f"mqtt://ann:p%2Fs3cret@{address}/right", said.append, warned.append)):
        wait_until(lambda: listener.last("right/status") == "online")
    assert said == [f"MQTT broker {address}: connected"], "that is no warning"
    assert len(warned) == 1
    listener.close()


def test_tls_is_for_a_broker_whose_certificate_is_trusted(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, said, warned = tmp_path / "key.pem", tmp_path / "certificate.pem", [], []
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    broker.lines += [f"certfile {certificate}", f"keyfile {key}"]
    broker.start()
    url = f"mqtts://localhost:{broker.port}"
    with closing(Mqtt(url, said.append, warned.append)):
        wait_until(lambda: warned)
    assert "its certificate is not trusted (self" in warned[0]
    assert "): name its authority's: SSL_CERT_FILE=ca.pem edge run ...; results wait" in warned[0]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with closing(Mqtt(url, said.append, warned.append)):
        wait_until(lambda: said)
    assert said == [f"MQTT broker localhost:{broker.port}: connected"]
    with closing(Mqtt(url.replace("localhost", "127.0.0.1"), said.append, warned.append)):
        wait_until(lambda: len(warned) > 1)
    assert "not valid for '127.0.0.1'): write mqtts:// with a name that it holds" in warned[1]


@pytest.mark.parametrize("code", [9, 10])
def test_a_certificate_that_is_out_of_time_may_be_this_machines_clock(code: int) -> None:
    """A board without a battery begins in 1970."""
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "certificate is not yet valid"
    assert "(certificate is not yet valid): check this machine's clock" in refusal_reason(error)


def test_a_broker_that_speaks_no_tls_is_told_from_one_that_is_away() -> None:
    warned: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        sink = Mqtt(f"mqtts://{address}", print, warned.append)
        with closing(sink), closing(server.accept()[0]) as connection:
            connection.sendall(b"this is no TLS")
            wait_until(lambda: warned)
    assert warned[0].startswith(f"MQTT broker {address}: TLS fails (WRONG_VERSION_NUMBER): ")
    assert "if it speaks none, write mqtt:// for mqtts://" in warned[0]
