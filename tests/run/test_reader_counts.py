"""What a reader counts, while the loop counts for the same source: each under the one bell."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from edge.errors import SourceError
from edge.preprocess.surface import Surface
from edge.run import reader
from edge.run.loop import run
from edge.run.reader import Reader
from edge.run.scheduler import Control
from edge.run.slots import QueuedFrame
from edge.run.status import SourceStatus
from edge.run.summary import Histogram
from edge.sources.feeds import Feed
from edge.sources.frame import Frame
from tests.scripted_sources import CUT, WAIT, Camera, Notes, Opening


class Careful(Histogram):
    """It takes long to add to it, and it sees who comes meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = self.most = 0

    def add(self, ms: float) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        time.sleep(0.01)
        self.at_once -= 1
        super().add(ms)


def test_the_loop_and_the_reader_do_not_count_at_once(engine: Any, paint: Any) -> None:
    """Both prepare frames of one source, at the same time, and count how long that took."""
    status = SourceStatus("a", preprocess=Careful())
    feed = Camera(paint, []).feed()
    player = Reader(feed, [], status, deque(), threading.Condition(), time.monotonic)
    frame = Frame("a", 0, None, 0.0, "system", Surface.from_rgb(paint(0)))
    works = [QueuedFrame(frame, engine.slot(), 0.0, 1.0, prepared=False) for _ in range(8)]
    threads = [threading.Thread(target=player.prepare, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert status.preprocess.count == 8
    assert status.preprocess.most == 1


@dataclass
class Guarded(SourceStatus):
    """It sees whether whoever counts has the bell."""

    condition: Any = None
    unguarded: list[str] = field(default_factory=list)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "stale" and getattr(self, "condition", None) is not None:
            thread = threading.Thread(target=self._look)
            thread.start()
            thread.join(WAIT)
        super().__setattr__(name, value)

    def _look(self) -> None:
        if self.condition.acquire(blocking=False):
            self.condition.release()
            self.unguarded.append("stale")


def test_what_came_too_late_is_counted_under_the_bell(engine: Any, paint: Any) -> None:
    class Late(Opening):
        def read(self, timeout: float) -> Frame | None:
            frame = super().read(timeout)
            if frame is None or frame.number == 0:
                return frame
            late = time.monotonic() - 5.0
            return Frame(frame.source, frame.number, frame.number * 0.1, late, "system", None)

    camera, condition = Camera(paint, []), threading.Condition()
    status = Guarded("a", condition=condition)
    feed = Feed("a", lambda *_: Late(camera, 0, [4, None]), live=True, reconnect=False)
    slots = [engine.slot() for _ in range(3)]
    player = Reader(feed, slots, status, deque(), condition, time.monotonic)
    player.start()
    deadline = time.monotonic() + WAIT
    while not player.finished and time.monotonic() < deadline:
        if (work := player.take_newest()) is not None:
            player.release(work.slot)
        time.sleep(0.001)
    assert player.error is None
    assert status.stale >= 2
    assert status.unguarded == []


@contextmanager
def ending(stop: threading.Event) -> Iterator[None]:
    timer = threading.Timer(WAIT, stop.set)
    timer.start()
    yield
    timer.cancel()


def test_a_camera_that_is_taken_out_between_two_tries_has_ended(
    engine: Any, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state would stay `waiting`, in metrics and on the page, although nothing waits."""
    monkeypatch.setattr(reader, "backoff", lambda failures, refused=False: WAIT)
    off, good = Camera(paint, [[CUT]], "off"), Camera(paint, [[10**6]], "good")
    control, stop, notes = Control(), threading.Event(), Notes()

    def heartbeat() -> None:
        if notes.states("off")[-1] == "waiting" and not removed:
            removed.append(control.remove("off"))
        if notes.states("off")[-1] == "ended":
            stop.set()

    removed: list[None] = []
    with ending(stop):
        feeds = [off.feed(), good.feed()]
        run(engine, feeds, [notes], stop=stop, control=control, heartbeat=heartbeat)
    assert notes.states("off") == ["connecting", "waiting", "ended"]
    assert notes.transitions[-1].reason == "removed"


def test_of_a_frame_that_cannot_be_prepared_the_place_is_free_again(
    engine: Any, paint: Any
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    engine.preprocess = fail
    feed, status = Camera(paint, []).feed(), SourceStatus("a")
    player = Reader(feed, [], status, deque(), threading.Condition(), time.monotonic)
    slot = engine.slot()
    frame = Frame("a", 0, None, 0.0, "system", Surface.from_rgb(paint(0)))
    assert not player.prepare(QueuedFrame(frame, slot, 0.0, 1.0, prepared=False))
    assert player.slots() == [slot]
    assert player.prepare(QueuedFrame(frame, slot, 0.0, 1.0, prepared=True))


def test_an_error_of_one_source_is_raised_when_it_is_all_there_is(engine: Any, paint: Any) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    engine.preprocess = fail
    with pytest.raises(SourceError, match=r"a fails \(ZeroDivisionError: a bug\)"):
        run(engine, [Camera(paint, [[9]]).feed(reconnect=False)], [])
