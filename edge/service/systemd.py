"""What systemd is told: that the run is ready, how it is doing, and that it is alive.

sd_notify(3) in a few lines: datagrams to the socket that $NOTIFY_SOCKET names. Without one, as in a
terminal, nobody is told and nothing is done.
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

_PATIENCE = 1.0  # seconds; what must arrive waits so long for room in the socket's queue
_NAMED = 3  # cameras out of order that one line names


class Systemd:
    """The service manager that started this process, or nobody.

    address   of its socket: a path, or @ and an abstract name; None: nobody
    watchdog  seconds without a sign of life after which it kills this process; None: never
    say       is told, once, why systemd cannot be reached
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
        self._said = False

    @classmethod
    def of(cls, environ: Mapping[str, str], info: Callable[[str], None]) -> Systemd:
        """The one that a process with these environment variables was started by."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = for_us and microseconds.isdecimal() and int(microseconds) > 0
        return cls(
            environ.get("NOTIFY_SOCKET") or None,
            int(microseconds) / 1e6 if watched else None,
            info,
        )

    def ready(self, text: str) -> None:
        """The run has begun: the engine is open and the cameras are asked for."""
        self._send(f"READY=1\n{_status(text)}", _PATIENCE)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is read anew; then the run is ready again, whatever came of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}", _PATIENCE)
        try:
            yield
        finally:
            self._send("READY=1", _PATIENCE)

    def stopping(self) -> None:
        """The run is about to end."""
        self._send("STOPPING=1", _PATIENCE)

    def status(self, text: str) -> None:
        """How the run is doing, in words for `systemctl status`."""
        self._send(_status(text))

    def alive(self) -> bool:
        """Put off the watchdog; say whether that could be told."""
        return self._send("WATCHDOG=1")

    def _send(self, message: str, patience: float = 0.0) -> bool:
        if self._address is None:
            return False
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(patience)
                line.sendto(message.encode(), address)
        except OSError as error:
            if not self._said:
                self._said = True
                self._info(f"systemd cannot be told how the run is doing: {error}")
            return False
        return True


class Watchdog:
    """Tells systemd that the run is alive, no more often than it needs to hear it."""

    def __init__(self, systemd: Systemd, status: Status):
        self._systemd, self._status = systemd, status
        self._last: float | None = None

    def heartbeat(self, now: float) -> None:
        """The loop has labelled a frame, or waits for cameras that have none; at these seconds.

        While the engine works on a batch there is no beat: one that never ends is what it is for.
        Nor is a run alive that is stuck in its drivers: only a new process frees it.
        """
        if self._status.stuck:
            return
        limit = self._systemd.watchdog
        due = self._last is None or (limit is not None and now - self._last >= limit / 3)
        if limit is not None and due and self._systemd.alive():
            self._last = now


class StatusLine:
    """Tells systemd every few seconds how many cameras play, and which do not."""

    def __init__(self, systemd: Systemd, status: Status, every: float = 5.0):
        self._systemd = systemd
        self._status = status
        self._every = every
        self._last = status.clock()
        self._frames = status.total.frames

    def heartbeat(self, now: float) -> None:
        """Tell it, if it is time at these seconds of the status' clock."""
        if now - self._last < self._every:
            return
        frames = self._status.total.frames
        fps = (frames - self._frames) / (now - self._last)
        self._last, self._frames = now, frames
        self._systemd.status(describe(self._status.sources, fps))


def describe(sources: list[SourceStatus], fps: float) -> str:
    """One line for people. fps: results per second of all cameras together, in the last seconds."""
    present = [source for source in sources if source.state != "ended"]
    playing = [source for source in present if source.state == "playing"]
    text = f"{len(playing)} of {len(present)} cameras playing, {fps:.1f} frames per second"
    absent = [source for source in present if source.state != "playing"]
    for source in absent[:_NAMED]:
        text += f"; {source.name} {source.state}"
        text += f" ({source.reason})" if source.reason else ""
    return text + (f"; and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")


def _status(text: str) -> str:
    """Its own line, and no more than one: what follows would be read as another message."""
    return f"STATUS={printable(text)}"
