"""Sources by script: cameras that send, fail and come back as they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.errors import SourceError
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition
from edge.sources.feeds import Feed
from edge.sources.frame import Frame

WAIT = 20.0
CUT = SourceError("the cable is out", "put it in")
Script = list["int | BaseException | None"]


class Camera:
    """A live source by script: an int is that many frames, an error or the end (None) follows.

    The last opening goes on for ever.
    """

    def __init__(self, paint: Callable[[int], np.ndarray], openings: list[Script], name: str = "a"):
        self.name, self._paint, self._openings = name, paint, openings
        self.opened: list[tuple[int, float]] = []
        self.dropped_each = 0
        self.in_flight: Callable[[], int] = lambda: 0
        self.held_at_close: list[int] = []

    def feed(self, **options: Any) -> Feed:
        return Feed(self.name, self._open, **{"live": True, "stall": 10.0, **options})

    def _open(self, first: int, wait: float) -> Any:
        self.opened.append((first, wait))
        script = self._openings[min(len(self.opened), len(self._openings)) - 1]
        if script and isinstance(script[0], BaseException):
            raise script[0]
        return Opening(self, first, list(script))


class OfItsOwn(Camera):
    """A pipeline of the user's own: it is no camera as far as is known before it was opened."""

    def __init__(self, *given: Any, camera: bool):
        super().__init__(*given)
        self._is_camera = camera

    def feed(self, **options: Any) -> Feed:
        return super().feed(live=False, **options)

    def _open(self, first: int, wait: float) -> Any:
        self.opened.append((first, wait))
        script = self._openings[min(len(self.opened), len(self._openings)) - 1]
        opening = Opening(self, first, list(script))
        opening.camera = self._is_camera
        return opening


class Opening:
    live, camera, link = True, True, "local"

    def __init__(self, camera: Camera, first: int, script: Script):
        self._camera, self._number, self._script = camera, first, script
        self._frames_left = 0
        self.dropped, self.interval = camera.dropped_each, None
        self._stopped = threading.Event()

    def __enter__(self) -> Opening:
        if self._script and isinstance(self._script[0], BaseException):
            raise self._script[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.held_at_close.append(self._camera.in_flight())

    def spacing(self, interval: float) -> float:
        return interval

    def read(self, timeout: float) -> Frame | None:
        while not self._frames_left and self._script:
            step = self._script.pop(0)
            if isinstance(step, int):
                self._frames_left = step
            elif step is None:
                return None
            else:
                raise step
        if not self._frames_left:
            self._stopped.wait(WAIT)
            return None
        if self._stopped.wait(0.002):
            return None
        self._frames_left -= 1
        number, self._number = self._number, self._number + 1
        surface = Surface.from_rgb(self._camera._paint(number % 256))
        return Frame(self._camera.name, number, None, time.monotonic(), "system", surface)

    def stop(self) -> None:
        self._stopped.set()


class Notes(Sink):
    """What came, in order: a transition as (source, state), a result as (source, number)."""

    def __init__(self, on_write: Callable[[Result], None] = lambda result: None):
        self.notes: list[tuple[str, Any]] = []
        self.transitions: list[Transition] = []
        self._on_write = on_write

    def write(self, result: Result) -> None:
        self.notes.append((result.frame.source, result.frame.number))
        self._on_write(result)

    def changed(self, transition: Transition) -> None:
        self.notes.append((transition.source, transition.state))
        self.transitions.append(transition)

    def states(self, name: str) -> list[str]:
        return [note for source, note in self.notes if source == name and isinstance(note, str)]
