"""Cameras to be hurt, in a process of their own."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Cameras"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cameras:
    """`tests/chaos/cameras.py` with these options, on the same port after each restart.

    kind: "webcams" are those of `tests/chaos/webcams.py`, over HTTP. What hurts or mends them
    returns the `time.monotonic()` seconds at which it was done.
    """

    options: Sequence[object] = ()
    port: int = 0
    kind: Literal["cameras", "webcams"] = "cameras"
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Cameras:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> float:
        """Returns when clients can connect."""
        self.port = self.port or _port()
        module = f"tests.chaos.{self.kind}"
        command = [sys.executable, "-m", module, "--port", self.port, *self.options]
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        assert int(self._process.stdout.readline()) == self.port
        return time.monotonic()

    def kill(self) -> float:
        """SIGKILL: the kernel closes the connections."""
        moment = time.monotonic()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        return moment

    def freeze(self) -> float:
        """SIGSTOP: connections stay open, and nothing comes."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> float:
        return self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> float:
        assert self._process is not None
        moment = time.monotonic()
        self._process.send_signal(number)
        return moment

    def tell(self, line: str) -> float:
        """Give all cameras an order."""
        assert self._process is not None
        assert self._process.stdin is not None
        moment = time.monotonic()
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return moment

    def url(self, camera: int = 0, port: int | None = None, user: str = "") -> str:
        """user: "NAME:PASSWORD@", if need be. port: a proxy's."""
        scheme = {"cameras": "rtsp", "webcams": "http"}[self.kind]
        return f"{scheme}://{user}127.0.0.1:{port or self.port}/{camera}"


def _port() -> int:
    """A free port that no outgoing connection is given by chance while the cameras are away."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return int(probe.getsockname()[1])
