"""The address of a broker, refused connections, and that secrets are never shown."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import AddressError, SourceError
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
def test_a_url_has_host_port_prefix_and_credentials(url: str, broker: Broker) -> None:
    assert Broker.from_url(url) == broker


@pytest.mark.parametrize(
    "url",
    ["host:1883", "http://host", "mqtt://", "mqtt://host:no", "mqtt://host:99999", "mqtt:///a"],
)
def test_an_invalid_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(AddressError, match=r"is not an MQTT broker address; write mqtt://"):
        Broker.from_url(url)


@pytest.mark.parametrize(
    "prefix", ["a/+", "a#", "a%23", "%2B", "a?b", "$SYS", "a%00", "a%0A", "a%7F", "a%C2%80"]
)
def test_an_invalid_topic_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(AddressError, match="has an invalid topic prefix"):
        Broker.from_url(f"mqtt://host/{prefix}")


@pytest.mark.parametrize("part", ["s3cret", "ann:s3cret@host/", "host/"])
def test_an_address_that_is_too_long_for_mqtt_is_refused_and_not_shown(part: str) -> None:
    with pytest.raises(AddressError, match=r"has more than 1000 characters; choose") as caught:
        Broker.from_url(f"mqtt://{part}{'x' * 70_000}")
    assert len(str(caught.value)) < 200


def test_str_and_repr_do_not_show_user_and_password() -> None:
    broker = Broker.from_url("mqtt://ann:s3cret@host/a")
    assert str(broker) == "MQTT broker host:1883"
    assert "ann" not in repr(broker)
    assert "s3cret" not in repr(broker)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://ann:s3cret@host/+",
        "mqtt://ann:s3cret@",
        "mqtt://ann:12/s3cret@host",  # in a URL an unescaped slash ends the host
        "mqtt://ann:s3/s3cret@host/a",
        "mqtts://ann:s3#s3cret@host/a",
        "ann:s3cret@host",
        "s3cret@host:1883/a",
        "ann:p@s3cret@host",
        "mqtt:ann:s3cret@host",
    ],
)
def test_errors_do_not_show_the_password(url: str) -> None:
    with pytest.raises(AddressError) as caught:
        Broker.from_url(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


def test_the_right_password_connects_and_a_wrong_one_is_reported_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    passwords, infos, warnings = tmp_path / "passwords", [], []
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann", "p/s3cret"], check=True)
    broker.lines = ["allow_anonymous false", f"password_file {passwords}"]
    broker.start()
    address = f"127.0.0.1:{broker.port}"
    listener = Listener(broker, "ann", "p/s3cret")
    with closing(Mqtt(f"mqtt://ann:wr0ng@{address}/wrong", infos.append, warnings.append)):
        wait_until(lambda: warnings)
    assert warnings == [
        f"MQTT broker {address}: the connection was refused (Not authorized): check user and "
        "password; up to 1000 results are queued meanwhile"
    ], "the last attempt, at the close, is not reported again"
    with closing(Mqtt(f"mqtt://ann:p%2Fs3cret@{address}/right", infos.append, warnings.append)):
        wait_until(lambda: listener.last("right/status") == "online")
    assert infos == [f"MQTT broker {address}: connected"], "as information, not as a warning"
    assert len(warnings) == 1
    listener.close()


def test_a_file_of_certificates_that_cannot_be_read_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would be waited for, for ever."""
    pipe, text = tmp_path / "pipe", tmp_path / "text"
    os.mkfifo(pipe)
    text.write_text("no certificate")
    for path, reason in ((pipe, "a pipe or a device"), (text, "not a PEM file")):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(SourceError, match=f"{path}, which holds no certificates .*{reason}"):
            Mqtt("mqtts://localhost:1", print, print)
        Mqtt("mqtt://localhost:1", print, print).close()


def test_tls_needs_a_trusted_certificate(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, infos, warnings = tmp_path / "key.pem", tmp_path / "certificate.pem", [], []
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    broker.lines += [f"certfile {certificate}", f"keyfile {key}"]
    broker.start()
    url = f"mqtts://localhost:{broker.port}"
    with closing(Mqtt(url, infos.append, warnings.append)):
        wait_until(lambda: warnings)
    assert "its certificate is not trusted (self" in warnings[0]
    assert "): give its CA certificate: SSL_CERT_FILE=ca.pem edge run ...; up to" in warnings[0]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with closing(Mqtt(url, infos.append, warnings.append)):
        wait_until(lambda: infos)
    assert infos == [f"MQTT broker localhost:{broker.port}: connected"]
    with closing(Mqtt(url.replace("localhost", "127.0.0.1"), infos.append, warnings.append)):
        wait_until(lambda: len(warnings) > 1)
    assert (
        "not valid for '127.0.0.1'): write mqtts:// with a host name that the certificate"
        in warnings[1]
    )


@pytest.mark.parametrize("code", [9, 10])
def test_an_expired_or_future_certificate_hints_at_the_clock(code: int) -> None:
    """A board without a clock battery starts in 1970."""
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "certificate is not yet valid"
    assert "(certificate is not yet valid): check this machine's clock" in refusal_reason(error)


def test_a_broker_without_tls_is_distinguished_from_one_that_is_away() -> None:
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        sink = Mqtt(f"mqtts://{address}", print, warnings.append)
        with closing(sink), closing(server.accept()[0]) as connection:
            connection.sendall(b"this is no TLS")
            wait_until(lambda: warnings)
    assert warnings[0].startswith(f"MQTT broker {address}: TLS fails (WRONG_VERSION_NUMBER): ")
    assert "if the broker does not use TLS, write mqtt:// instead of mqtts://" in warnings[0]
