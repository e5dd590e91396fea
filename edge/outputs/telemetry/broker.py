"""An MQTT broker: its address, and one connection to it, by paho-mqtt."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from edge.errors import AddressError, require
from edge.sources.uris import redact, redact_address

__all__ = ["OFFLINE", "ONLINE", "Broker", "Link", "Message", "refusal_reason"]

PREFIX = "vit-edge"
ONLINE, OFFLINE = "online", "offline"
KEEPALIVE = 20  # seconds without a word after which the broker, or we, take the other for gone

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_CONNECT = 5.0  # seconds for TCP, and as many for TLS
# At least once: what the broker has not acknowledged is sent again, so that none is lost unseen.
_QOS = 1
_UNKNOWN = (134, 135)  # bad user name or password, not authorised: MQTT's reason codes
_OUT_OF_TIME = (9, 10)  # not valid yet, or no longer: OpenSSL's codes
_ANOTHER_NAME = (62, 64)  # of a host, of an IP address


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and who we are there.

    tls       its certificate must be one that this system, or $SSL_CERT_FILE, trusts
    prefix    what every topic begins with
    user      None where none is given; like the password it is never shown
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
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _unusable(url) from None  # what it says may repeat a part of the password
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.path:
            raise _unusable(url)
        prefix = unquote(parts.path).strip("/")
        if set(url) & set("?#") or prefix.startswith("$") or set(prefix) & set("+#\0"):
            raise AddressError(
                f"{redact(url)} has a prefix that no topic may begin with",
                "give one without + # ? and $, such as mqtt://host/site/line1",
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
    """Why a broker could not be connected to, and what mends it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "name its authority's: SSL_CERT_FILE=ca.pem edge run ..."
        if error.verify_code in _OUT_OF_TIME:
            hint = "check this machine's clock, or have it renewed"
        elif error.verify_code in _ANOTHER_NAME:
            hint = "write mqtts:// with a name that it holds"
        return f"its certificate is not trusted ({error.verify_message.rstrip('.')}): {hint}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason or error}): if it speaks none, write mqtt:// for mqtts://"
    return f"cannot be reached ({getattr(error, 'strerror', None) or error})"


def _unusable(url: str) -> AddressError:
    return AddressError(
        f"{redact_address(url)} is no address of a broker",
        "give mqtt://user:password@host:1883/prefix, or mqtts://; / # ? @ : and % in a password "
        "are written %2F %23 %3F %40 %3A %25",
    )


@dataclass(eq=False)
class Message:
    """What is said under a topic; mid is the number that the connection gave it, 0 before."""

    topic: str
    payload: str
    retain: bool = False
    mid: int = 0


class Link:
    """One connection, from `with` to its end; paho's own thread serves it.

    That thread writes these, under `condition`, and rings it:

    open          the broker has let us in
    failure       why the connection is no more, or was refused; empty while it is well
    acknowledged  the `mid` of messages that the broker has taken, until someone discards them
    """

    def __init__(self, broker: Broker, client_id: str, condition: threading.Condition):
        """Raises MissingPackage without paho-mqtt."""
        mqtt = require("paho.mqtt.client")
        self.open = False
        self.failure = ""
        self.acknowledged: set[int] = set()
        self._broker = broker
        self._condition = condition
        # A client for each connection: none has messages of the one before to send again.
        self._client: Any = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False
        )
        self._client.connect_timeout = _CONNECT
        self._client.max_inflight_messages_set(0)  # no limit here: the caller has one
        self._client.username_pw_set(broker.user, broker.password)
        self._client.will_set(f"{broker.prefix}/status", OFFLINE, _QOS, retain=True)
        if broker.tls:
            self._client.tls_set_context(ssl.create_default_context())
        self._client.on_connect = self._answered
        self._client.on_publish = self._published
        self._client.on_disconnect = self._ended

    def __enter__(self) -> Link:
        """Connect; the broker's answer comes later. Raises OSError; ValueError for odd hosts."""
        self._client.connect(self._broker.host, self._broker.port, KEEPALIVE)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        # paho's thread would wait for a broker that does not answer; this wakes it. A broker that
        # was not told by `leave` takes it for a failure, and publishes the will.
        with suppress(OSError):
            if (connection := self._client.socket()) is not None:
                connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
        # It holds sockets, and through these methods itself.
        self._client.on_connect = self._client.on_publish = self._client.on_disconnect = None

    def send(self, message: Message) -> None:
        """Hand the message to paho's thread, without waiting. Do not hold `condition`."""
        sent = self._client.publish(message.topic, message.payload, _QOS, message.retain)
        message.mid = sent.mid

    def leave(self) -> None:
        """Tell the broker that all is well: it then publishes no will. `failure` says when."""
        self._client.disconnect()

    def _answered(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        with self._condition:
            self.open = not reason.is_failure
            if reason.is_failure:
                hint = ": check user and password" if reason.value in _UNKNOWN else ""
                self.failure = f"it refuses the connection ({reason}){hint}"
            self._condition.notify_all()

    def _published(self, _client: Any, _data: Any, mid: int, _reason: Any, _more: Any) -> None:
        with self._condition:
            self.acknowledged.add(mid)
            self._condition.notify_all()

    def _ended(self, _client: Any, _data: Any, _flags: Any, _reason: Any, _more: Any) -> None:
        with self._condition:
            self.failure = self.failure or "the connection was lost"
            self._condition.notify_all()
