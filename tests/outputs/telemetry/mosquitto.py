"""A real MQTT broker on the loopback address, a subscriber, and a link that can be cut."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from paho.mqtt import client as mqtt

PATIENCE = 30.0  # seconds: the machine may be busy


def wait_until(true: Callable[[], object], what: str = "the condition was never met") -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """The broker; it can be killed and restarted on the same port, and then has no memory."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.lines = ["allow_anonymous true"]
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        # So that it reads its files as the user that started it, root or not.
        lines = [f"listener {self.port} 127.0.0.1", "user root", *self.lines, ""]
        self._config.write_text("\n".join(lines))
        # /usr/sbin is not in every user's PATH.
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens, "mosquitto did not start: scripts/setup.sh --tests installs it")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Received(NamedTuple):
    topic: str
    text: str
    retained: bool

    @property
    def content(self) -> Any:
        return json.loads(self.text)


class Listener:
    """A subscriber to all topics; it receives retained messages first."""

    def __init__(self, broker: Mosquitto, user: str | None = None, password: str | None = None):
        self.received: list[Received] = []
        subscribed = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(user, password)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert subscribed.wait(PATIENCE)

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self.received.append(
            Received(message.topic, message.payload.decode(), bool(message.retain))
        )

    def texts(self, topic: str) -> list[str]:
        return [message.text for message in self.received if message.topic == topic]

    def last(self, topic: str) -> str | None:
        return (self.texts(topic) or [None])[-1]

    def frames(self) -> list[int]:
        """The frame numbers of the received results, in their order."""
        return [
            message.content["frame"]
            for message in self.received
            if message.topic.endswith("/result")
        ]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Road:
    """A proxy to a broker that can be closed, opened and blocked while the broker keeps running.

    So a listener at the broker receives what is sent first after the proxy is opened again.
    """

    def __init__(self, broker: Mosquitto):
        self.port = free_port()
        self._to = broker.port
        self._blocked = threading.Event()
        self._server: socket.socket | None = None
        self._ends: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._blocked.clear()
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def block(self) -> None:
        """From now on discard all data, on connections that stay open."""
        self._blocked.set()

    def close(self) -> None:
        """Refuse new connections and end the existing ones."""
        if self._server is not None:
            # close() alone would not wake the thread in accept().
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        while self._ends:
            end = self._ends.pop()
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not self._blocked.is_set():
                    other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
