"""The real `edge run`, watched from outside: results with their stamps, words, and needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.chaos.reader import values
from tests.chaos.stamps import Stamp, read

__all__ = ["PATIENCE", "Needs", "Run", "Seen", "until"]

PATIENCE = 30.0  # seconds after which what has not happened never will, on a busy machine


@dataclass(frozen=True)
class Seen:
    """A result, as it came out of the command.

    stamp   what its frame showed, read by the engine; None for a damaged picture
    at      `time.monotonic()` seconds when its line was read
    """

    source: str
    frame: int
    stamp: Stamp | None
    age_ms: float
    latency_ms: float
    at: float

    @property
    def true_age_ms(self) -> float:
        """From the moment when the camera took the picture until its line was read."""
        assert self.stamp is not None
        return self.at * 1e3 - self.stamp.ms


@dataclass(frozen=True)
class Needs:
    """What a process takes: resident megabytes, open files, threads."""

    rss_mb: float
    files: int
    threads: int

    @staticmethod
    def of(process: int) -> Needs:
        place = Path("/proc") / str(process)
        said = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        rss, threads = int(said["VmRSS"].split()[0]) / 1024, int(said["Threads"])
        return Needs(round(rss, 1), len(list((place / "fd").iterdir())), threads)


def until(what: Callable[[], object], why: str, patience: float = PATIENCE) -> float:
    """Wait until `what()` is true; returns the seconds that it took."""
    began = time.monotonic()
    while not what():
        waited = time.monotonic() - began
        assert waited < patience, f"waited {waited:.0f} s: {why}"
        time.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Run:
    """`edge run ENGINE WORDS`, from `with` on; at the end it is stopped as Ctrl-C would.

    seen   all results;  said   its lines on stderr, with the seconds at which they came
    """

    engine: Path
    words: Sequence[object]
    before: Sequence[object] = ()
    env: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    said: list[tuple[float, str]] = field(default_factory=list)
    exit: int | None = None

    def __enter__(self) -> Run:
        command = [*self.before, sys.executable, "-m", "edge", "run", self.engine, *self.words]
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1", **self.env},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._results, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._words, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _results(self, lines: IO[str]) -> None:
        for line in lines:
            at, told = time.monotonic(), json.loads(line)
            found = values([best["class_id"] for best in told["top"]])
            stamp = None if found is None else read(found, int(at * 1e3))
            self.seen.append(
                Seen(told["source"], told["frame"], stamp, told["age_ms"], told["latency_ms"], at)
            )

    def _words(self, lines: IO[str]) -> None:
        for line in lines:
            self.said.append((time.monotonic(), line.rstrip("\n")))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Send the signal and wait for the end; returns the seconds that it took."""
        began = time.monotonic()
        if self.exit is None:
            self._process.send_signal(how)
        return self.wait() - began

    def wait(self) -> float:
        """Wait for the end; returns when it was."""
        try:
            self.exit = self._process.wait(PATIENCE)
        finally:
            self._process.kill()
        ended = time.monotonic()
        for thread in self._threads:
            thread.join(PATIENCE)
        return ended

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def needs(self) -> Needs:
        return Needs.of(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def text(self) -> str:
        """All that it said on stderr."""
        return "\n".join(line for _, line in self.said)

    def said_after(self, moment: float, *words: str) -> float | None:
        """When the first line with all these words came after `moment`; None as long as none."""
        for at, line in self.said:
            if at > moment and all(word in line for word in words):
                return at
        return None

    def taken_after(self, moment: float, camera: int = 0) -> Seen | None:
        """The first result of a picture that this camera took after `moment`, if there is one."""
        found = None
        for one in reversed(self.seen):
            if one.at < moment:
                break
            if one.stamp and one.stamp.camera == camera and one.stamp.ms >= moment * 1e3:
                found = one
        return found

    def await_picture(self, moment: float, camera: int = 0, patience: float = PATIENCE) -> float:
        """Wait for the first result of a picture taken after `moment`: when it came."""
        why = f"no picture of camera {camera} came"
        self._until(lambda: self.taken_after(moment, camera), why, patience)
        found = self.taken_after(moment, camera)
        assert found is not None
        return found.at

    def await_words(self, moment: float, *words: str) -> float:
        """Wait for the first line after `moment` with all these words: when it came."""
        self._until(lambda: self.said_after(moment, *words), f"{words} was not said")
        said = self.said_after(moment, *words)
        assert said is not None
        return said

    def _until(self, what: Callable[[], object], why: str, patience: float = PATIENCE) -> None:
        """Raises AssertionError, with all that was said, when it is late or the run is over."""

        def look() -> object:
            assert what() or self.alive, "the run is over"
            return what()

        try:
            until(look, why, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.text()}") from None
