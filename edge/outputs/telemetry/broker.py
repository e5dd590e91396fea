"""The address of an MQTT broker, and a connection to it, using paho-mqtt."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.errors import AddressError, require
from edge.files.redaction import redact, redact_address

__all__ = ["OFFLINE", "ONLINE", "Broker", "Link", "Message", "refusal_reason"]

PREFIX = "vit-edge"
ONLINE, OFFLINE = "online", "offline"
KEEPALIVE = 20  # seconds of silence after which either side considers the connection lost

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MAX_URL = 1000  # of each of its parts MQTT allows 65,535 bytes
_CONNECT = 5.0  # seconds for the TCP connection, and again for the TLS handshake
# At least once: a message that the broker has not acknowledged is sent again.
_QOS = 1
_BAD_CREDENTIALS = (134, 135)  # MQTT reason codes: bad user name or password, not authorised
_NOT_IN_VALIDITY = (9, 10)  # OpenSSL codes: not valid yet, or expired
_NAME_MISMATCH = (62, 64)  # OpenSSL codes: of a host name, of an IP address


@dataclass(frozen=True)
class Broker:
    """The address of a broker, and the credentials for it.

    tls       use TLS; the broker's certificate must be trusted by the system or $SSL_CERT_FILE
    prefix    the first part of every topic
    user      None if not given; like the password it is never shown
    """

    host: str
    port: int
    tls: bool
    prefix: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Broker:
        """Read mqtt[s]://[user:password@]host[:port][/prefix]. Raises AddressError."""
        if len(url) > _MAX_URL:
            raise AddressError(
                f"the address of the MQTT broker has more than {_MAX_URL} characters",
                "choose a shorter topic prefix, or another user or password",
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _invalid_url(url) from None  # its text may contain a part of the password
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.path:
            raise _invalid_url(url)
        prefix = unquote(parts.path).strip("/")
        # Brokers close the connection for a control character.
        is_topic = (
            prefix.isprintable() and not prefix.startswith("$") and not set(prefix) & set("+#")
        )
        if set(url) & set("?#") or not is_topic:
            raise AddressError(
                f"{redact(url)} has an invalid topic prefix",
                "use one without + # ? $ and control characters, such as mqtt://host/site/line1",
            )
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            tls=parts.scheme == "mqtts",
            prefix=prefix or PREFIX,
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"MQTT broker {host}:{self.port}"


def refusal_reason(error: OSError | ValueError) -> str:
    """Why the connection to a broker failed, with a hint."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "give its CA certificate: SSL_CERT_FILE=ca.pem edge run ..."
        if error.verify_code in _NOT_IN_VALIDITY:
            hint = "check this machine's clock, or renew the certificate"
        elif error.verify_code in _NAME_MISMATCH:
            hint = "write mqtts:// with a host name that the certificate contains"
        return f"its certificate is not trusted ({error.verify_message.rstrip('.')}): {hint}"
    if isinstance(error, ssl.SSLError):
        hint = "if the broker does not use TLS, write mqtt:// instead of mqtts://"
        return f"TLS fails ({error.reason or error}): {hint}"
    return f"cannot be reached ({getattr(error, 'strerror', None) or error})"


def _invalid_url(url: str) -> AddressError:
    return AddressError(
        f"{redact_address(url)} is not an MQTT broker address",
        "write mqtt://user:password@host:1883/prefix, or mqtts://...; in a password, write "
        "/ # ? @ : and % as %2F %23 %3F %40 %3A %25",
    )


@dataclass(eq=False)
class Message:
    """A message to publish; mid is the number that the connection gave it, 0 before."""

    topic: str
    payload: str
    retain: bool = False
    mid: int = 0


class Link:
    """One connection, opened and closed by a `with` block; paho's own thread serves it.

    That thread changes these attributes while it holds `condition`, and notifies it:

    open          the broker has accepted the connection
    failure       why the connection was refused or lost; empty while it works
    acknowledged  the `mid` of messages that the broker acknowledged, until the caller discards them
    """

    def __init__(self, broker: Broker, client_id: str, condition: threading.Condition):
        """Raises MissingPackage without paho-mqtt."""
        mqtt = require("paho.mqtt.client")
        self.open = False
        self.failure = ""
        self.acknowledged: set[int] = set()
        self._broker = broker
        self._condition = condition
        # A new client for each connection, so that paho does not resend messages of the last one.
        self._client: Any = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False
        )
        self._client.connect_timeout = _CONNECT
        self._client.max_inflight_messages_set(0)  # no limit: the caller limits them
        self._client.username_pw_set(broker.user, broker.password)
        self._client.will_set(f"{broker.prefix}/status", OFFLINE, _QOS, retain=True)
        if broker.tls:
            self._client.tls_set_context(ssl.create_default_context())
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = self._on_disconnect

    def __enter__(self) -> Link:
        """Connect; the broker answers later. Raises OSError; ValueError for invalid hosts."""
        self._client.connect(self._broker.host, self._broker.port, KEEPALIVE)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        # paho's thread could block on a broker that does not answer; this wakes it. Without a call
        # of `leave` before, the broker considers this a failure and publishes the will.
        with suppress(OSError):
            if (connection := self._client.socket()) is not None:
                connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
        # The client holds sockets, and these methods form a reference cycle with it.
        self._client.on_connect = self._client.on_publish = self._client.on_disconnect = None

    def send(self, message: Message) -> None:
        """Hand the message to paho's thread without blocking. Do not hold `condition`."""
        sent = self._client.publish(message.topic, message.payload, _QOS, message.retain)
        message.mid = sent.mid

    def leave(self) -> None:
        """Disconnect regularly, so that no will is published. `failure` is set when it is done."""
        self._client.disconnect()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        with self._condition:
            self.open = not reason.is_failure
            if reason.is_failure:
                hint = ": check user and password" if reason.value in _BAD_CREDENTIALS else ""
                self.failure = f"the connection was refused ({reason}){hint}"
            self._condition.notify_all()

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _more: Any) -> None:
        with self._condition:
            self.acknowledged.add(mid)
            self._condition.notify_all()

    def _on_disconnect(
        self, _client: Any, _data: Any, _flags: Any, _reason: Any, _more: Any
    ) -> None:
        with self._condition:
            self.failure = self.failure or "the connection was lost"
            self._condition.notify_all()
