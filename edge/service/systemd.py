"""Notifications to systemd: the run is ready, its status, and that it is alive.

This is sd_notify(3): datagrams to the socket of $NOTIFY_SOCKET. Without that variable, as in a
terminal, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from edge.errors import printable
from edge.run.status import SourceStatus, Status

__all__ = ["StatusLine", "Systemd", "Watchdog", "describe"]

_SEND_TIMEOUT = 1.0  # seconds that an important message waits for room in the socket's queue
_MAX_NAMED = 3  # cameras that are not playing, in one status line


class Systemd:
    """The connection to the service manager that started this process, if any.

    address   of its socket: a path, or @ and an abstract name; None: there is no service manager
    watchdog  seconds without a heartbeat after which it kills this process; None: never
    info      called once if systemd cannot be reached, with the reason
    """

    def __init__(
        self,
        address: str | None,
        watchdog: float | None = None,
        info: Callable[[str], None] = lambda text: None,
    ):
        self.watchdog = watchdog
        self._address = address
        self._info = info
        self._failure_reported = False

    @classmethod
    def of(cls, environ: Mapping[str, str], info: Callable[[str], None]) -> Systemd:
        """The service manager by the environment variables of this process."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = for_us and microseconds.isdecimal() and int(microseconds) > 0
        return cls(
            environ.get("NOTIFY_SOCKET") or None,
            int(microseconds) / 1e6 if watched else None,
            info,
        )

    def ready(self, text: str) -> None:
        """The run has started: the engine is open, and the sources are about to be opened."""
        self._send(f"READY=1\n{_status(text)}", _SEND_TIMEOUT)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Announce a reload of the configuration; at its end the run is ready again in any case."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}", _SEND_TIMEOUT)
        try:
            yield
        finally:
            self._send("READY=1", _SEND_TIMEOUT)

    def stopping(self) -> None:
        """The run is about to end."""
        self._send("STOPPING=1", _SEND_TIMEOUT)

    def status(self, text: str) -> None:
        """Send the status line that `systemctl status` shows."""
        self._send(_status(text))

    def alive(self) -> bool:
        """Send a heartbeat for the watchdog; returns whether that succeeded."""
        return self._send("WATCHDOG=1")

    def _send(self, message: str, timeout: float = 0.0) -> bool:
        if self._address is None:
            return False
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(timeout)
                line.sendto(message.encode(), address)
        except OSError as error:
            if not self._failure_reported:
                self._failure_reported = True
                self._info(f"cannot notify systemd: {error}")
            return False
        return True


class Watchdog:
    """Sends heartbeats to systemd, no more often than it needs them."""

    def __init__(self, systemd: Systemd, status: Status):
        self._systemd, self._status = systemd, status
        self._last: float | None = None

    def heartbeat(self, now: float) -> None:
        """The loop has labelled a frame, or waits for frames. now: seconds.

        There is no heartbeat while the engine works on a batch: so a batch that never ends is
        detected. There is none either for a run that is stuck in its drivers: only a new process
        helps then.
        """
        if self._status.stuck:
            return
        limit = self._systemd.watchdog
        due = self._last is None or (limit is not None and now - self._last >= limit / 3)
        if limit is not None and due and self._systemd.alive():
            self._last = now


class StatusLine:
    """Sends systemd a status line every few seconds: how many cameras play, and which do not."""

    def __init__(self, systemd: Systemd, status: Status, every: float = 5.0):
        self._systemd = systemd
        self._status = status
        self._every = every
        self._last = status.clock()
        self._frames = status.total.frames

    def heartbeat(self, now: float) -> None:
        """Send the line if it is due. now: seconds of the clock of the status."""
        if now - self._last < self._every:
            return
        frames = self._status.total.frames
        fps = (frames - self._frames) / (now - self._last)
        self._last, self._frames = now, frames
        self._systemd.status(describe(self._status.sources, fps))


def describe(sources: list[SourceStatus], fps: float) -> str:
    """The status line. fps: recent results per second of all cameras together."""
    present = [source for source in sources if source.state != "ended"]
    playing = [source for source in present if source.state == "playing"]
    text = f"{len(playing)} of {len(present)} cameras playing, {fps:.1f} frames per second"
    absent = [source for source in present if source.state != "playing"]
    for source in absent[:_MAX_NAMED]:
        text += f"; {source.name} {source.state}"
        text += f" ({source.reason})" if source.reason else ""
    return text + (f"; and {len(absent) - _MAX_NAMED} more" if len(absent) > _MAX_NAMED else "")


def _status(text: str) -> str:
    """STATUS= with the text on one line: a second line would be parsed as another message."""
    return f"STATUS={printable(text)}"
