"""A broker's address, and who it lets in; what is secret is never shown."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import AddressError
from edge.run.telemetry.broker import Broker
from edge.run.telemetry.mqtt import Mqtt
from tests.run.telemetry.mosquitto import Listener, Mosquitto, wait_until


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
    passwords, said = tmp_path / "passwords", []
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann", "p/s3cret"], check=True)
    broker.lines = ["allow_anonymous false", f"password_file {passwords}"]
    broker.start()
    address = f"127.0.0.1:{broker.port}"
    listener = Listener(broker, "ann", "p/s3cret")
    with closing(Mqtt(f"mqtt://ann:wr0ng@{address}/wrong", said.append)):
        wait_until(lambda: said)
    assert said == [
        f"MQTT broker {address}: it refuses the connection (Not authorized): check user and "
        "password; results wait for it, 1000 at most"
    ], "the last attempt, when it is closed, says no more"
    with closing(Mqtt(f"mqtt://ann:p%2Fs3cret@{address}/right", said.append)):
        wait_until(lambda: listener.last("right/status") == "online")
    assert said[1:] == [f"MQTT broker {address}: connected"]
    listener.close()


def test_tls_is_for_a_broker_whose_certificate_is_trusted(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, said = tmp_path / "key.pem", tmp_path / "certificate.pem", []
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    broker.lines += [f"certfile {certificate}", f"keyfile {key}"]
    broker.start()
    url = f"mqtts://localhost:{broker.port}"
    with closing(Mqtt(url, said.append)):
        wait_until(lambda: said)
    assert "certificate verify failed" in said[0]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with closing(Mqtt(url, said.append)):
        wait_until(lambda: said[-1].endswith("connected"))
    with closing(Mqtt(url.replace("localhost", "127.0.0.1"), said.append)):
        wait_until(lambda: "not valid for '127.0.0.1'" in said[-1])
