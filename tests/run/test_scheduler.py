"""Drivers that never return: what is told of them, and what becomes of the run and their names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from edge.errors import SourceError
from edge.run import reader, scheduler
from edge.run.driver_watchdog import CALL_TIMEOUT
from edge.run.interfaces import Result
from edge.run.loop import run
from edge.run.scheduler import Control
from edge.run.status import SourceStatus, Status
from edge.sources.frame import Frame
from tests.scripted_sources import CUT, WAIT, Camera, Notes, Opening, Script

DROPPED = 10**6  # by a driver that returns at last


class Hanging(Camera):
    """A camera whose driver hangs in its first opening's `where`, until it is let go."""

    def __init__(
        self,
        paint: Any,
        where: str,
        openings: list[Script],
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(paint, openings)
        self.where, self.clock = where, clock
        self.hangs, self.free = threading.Event(), threading.Event()

    def _open(self, first: int, wait: float) -> Any:
        self.opened.append((first, wait))
        script = self._openings[min(len(self.opened), len(self._openings)) - 1]
        kind = Held if len(self.opened) == 1 else Opening
        return kind(self, first, list(script))


class Held(Opening):
    _camera: Hanging

    def _hang(self, where: str) -> None:
        if where == self._camera.where:
            self._camera.hangs.set()
            self._camera.free.wait(WAIT)
            self.dropped += DROPPED

    def __enter__(self) -> Opening:
        self._hang("open")
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self._hang("close")

    def read(self, timeout: float) -> Frame | None:
        if self._number == 2:
            self._hang("read")
        frame = super().read(timeout)
        return frame and replace(frame, captured=self._camera.clock())


class Counted(SourceStatus):
    """It remembers what was ever counted as dropped."""

    dropped_ever: ClassVar[list[int]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dropped":
            self.dropped_ever.append(value)
        super().__setattr__(name, value)


class Clock:
    """It can be put forward: what hangs, then, does so for long."""

    def __init__(self) -> None:
        self._forward = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._forward

    def put_forward(self) -> None:
        self._forward += 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Ends a run; when a test waits in vain, after a while."""
    event = threading.Event()
    timer = threading.Timer(WAIT, event.set)
    timer.start()
    yield event
    timer.cancel()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "backoff", lambda failures, refused=False: 0.001)
    monkeypatch.setattr(scheduler, "_CLOSE_SECONDS", 0.05)


def when(condition: Callable[[], bool], do: Callable[[], object]) -> Callable[[], None]:
    """What does something once, at the first beat at which the condition holds."""
    done = []

    def heartbeat() -> None:
        if not done and condition():
            done.append(do())

    return heartbeat


LEFT = "its driver hangs and does not close it; it was abandoned"


def test_why_a_camera_stopped_is_told_although_it_never_closes(
    engine: Any, paint: Any, stop: threading.Event
) -> None:
    camera, notes = Hanging(paint, "close", [[3, CUT]]), Notes()
    told = when(lambda: notes.states("a")[-1] == "waiting" and camera.hangs.is_set(), stop.set)
    try:
        run(engine, [camera.feed()], [notes], stop=stop, heartbeat=told)
        assert notes.states("a") == ["connecting", "playing", "waiting", "ended"]
        assert [note.reason for note in notes.transitions[-2:]] == [str(CUT), LEFT]
    finally:
        camera.free.set()


@pytest.mark.parametrize("end", [None, CUT], ids=["ended", "failed"])
def test_the_end_of_a_run_is_not_held_by_a_source_that_never_closes(
    engine: Any, paint: Any, stop: threading.Event, end: SourceError | None
) -> None:
    """As a film whose decoder hangs at its end; what it had is labelled, why it ended is raised."""
    film, notes = Hanging(paint, "close", [[3, end]]), Notes()
    fails = pytest.raises(SourceError, match=str(CUT)) if end else nullcontext()
    try:
        with fails:
            run(engine, [film.feed(reconnect=False)], [notes], stop=stop)
        assert not stop.is_set()
        assert notes.states("a") == ["connecting", "playing", "failed" if end else "ended", "ended"]
        assert notes.transitions[-1].reason == LEFT
    finally:
        film.free.set()


def test_a_fault_that_is_found_as_the_last_source_closes_ends_the_run(
    engine: Any, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_CLOSE_SECONDS", WAIT)

    def close(*_: object) -> None:
        time.sleep(0.2)
        raise CUT

    monkeypatch.setattr(Opening, "__exit__", close)
    notes = Notes()
    with pytest.raises(SourceError, match=str(CUT)):
        run(engine, [Camera(paint, [[3, None]]).feed(reconnect=False)], [notes])
    assert notes.states("a") == ["connecting", "playing", "ended", "failed"]


@pytest.mark.parametrize("where", ["open", "read", "close"])
def test_a_run_whose_only_camera_hangs_is_stuck_until_it_returns(
    engine: Any, paint: Any, stop: threading.Event, clock: Clock, where: str
) -> None:
    """In the time that a call is given nothing is said of it."""
    script: Script = [3, CUT] if where == "close" else [10**6]
    camera, status = Hanging(paint, where, [script, [10**6]], clock), Status(clock=clock)
    stuck = []
    steps = [
        when(camera.hangs.is_set, lambda: (stuck.append(status.stuck), clock.put_forward())),
        when(lambda: status.stuck, lambda: (stuck.append(True), camera.free.set())),
        when(lambda: len(stuck) == 2 and notes.states("a")[-1] == "playing", stop.set),
    ]
    notes = Notes()

    def heartbeat() -> None:
        for step in steps:
            step()

    try:
        run(
            engine,
            [camera.feed()],
            [notes],
            stop=stop,
            status=status,
            clock=clock,
            wait=True,
            heartbeat=heartbeat,
        )
    finally:
        camera.free.set()
    assert stuck == [False, True]
    assert not status.stuck
    assert len(camera.opened) == (2 if where == "close" else 1)
    reasons = [note.reason for note in notes.transitions if "hangs" in note.reason]
    assert reasons == [
        f"a hangs in its driver, which has not answered for {CALL_TIMEOUT:g} s; "
        "unplug it and plug it in again, or restart the run"
    ]
    assert notes.states("a")[-2:] == ["waiting", "playing"]


def test_while_another_camera_plays_a_run_is_not_stuck(
    engine: Any, paint: Any, stop: threading.Event, clock: Clock
) -> None:
    """To begin again would take its frames, and not bring the first one back."""
    hanging, good = Hanging(paint, "open", [[9]]), Camera(paint, [[10**6]], "good")
    status, stuck, notes = Status(clock=clock), [], Notes()
    forward = when(
        lambda: hanging.hangs.is_set() and "playing" in notes.states("good"), clock.put_forward
    )

    def heartbeat() -> None:
        forward()
        if "waiting" in notes.states("a"):
            stuck.append(status.stuck)
            if len(stuck) == 20:
                stop.set()

    try:
        feeds = [hanging.feed(), good.feed()]
        run(engine, feeds, [notes], stop=stop, status=status, clock=clock, heartbeat=heartbeat)
    finally:
        hanging.free.set()
    assert not any(stuck[10:])  # put forward, the clock has all that is under way be overdue


def test_cameras_that_are_merely_off_are_no_reason_to_begin_again(
    engine: Any, paint: Any, stop: threading.Event, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that lasts."""

    def long(failures: int, *, refused: bool = False) -> float:
        clock.put_forward()
        return 0.001

    monkeypatch.setattr(reader, "backoff", long)
    camera, status, stuck = Camera(paint, [[CUT]]), Status(clock=clock), []

    def heartbeat() -> None:
        stuck.append(status.stuck)
        if len(camera.opened) > 20:
            stop.set()

    run(
        engine,
        [camera.feed()],
        [],
        stop=stop,
        status=status,
        clock=clock,
        wait=True,
        heartbeat=heartbeat,
    )
    assert len(camera.opened) > 20
    assert not any(stuck)


def test_a_first_camera_that_hangs_ends_a_run_that_does_not_wait(
    engine: Any, paint: Any, stop: threading.Event, clock: Clock
) -> None:
    camera = Hanging(paint, "open", [[9]])
    try:
        with pytest.raises(SourceError, match=r"hangs in its driver.*to keep trying add --wait"):
            run(
                engine,
                [camera.feed()],
                [],
                stop=stop,
                clock=clock,
                heartbeat=when(camera.hangs.is_set, clock.put_forward),
            )
    finally:
        camera.free.set()


@pytest.mark.parametrize("where", ["open", "close"])
def test_a_camera_that_hangs_gives_its_name_to_another_and_keeps_its_places(
    engine: Any, paint: Any, stop: threading.Event, clock: Clock, where: str
) -> None:
    """What the old one says and counts, when it returns after all, is for nobody."""
    made, slot = [], engine.slot
    engine.slot = lambda: made.append(1) or slot()
    old, new = Hanging(paint, where, [[10**6]]), Camera(paint, [[10**6]])
    control, status = Control(), Status(clock=clock)
    status._sources["a"] = Counted("a")
    early: list[int] = []

    def change() -> None:
        control.remove("a")
        control.add(new.feed())

    def readers() -> int:
        return sum(thread.name == "reader of a" for thread in threading.enumerate())

    slots: list[int] = []
    steps = [
        when(lambda: where == "open" or notes.states("a")[-1] == "playing", change),
        when(
            lambda: old.hangs.is_set() and not control.requests,
            lambda: (early.append(len(new.opened)), clock.put_forward()),
        ),
        when(
            lambda: bool(new.opened) and notes.states("a")[-1] == "playing",
            lambda: (slots.append(len(made)), old.free.set()),
        ),
        when(lambda: bool(slots) and readers() == 1, lambda: control.add(c.feed())),
        when(lambda: "playing" in notes.states("c"), stop.set),
    ]

    def observe(_: Result) -> None:
        for step in steps:
            step()

    notes = Notes(observe)
    b, c = Camera(paint, [[10**6]], "b"), Camera(paint, [[10**6]], "c")
    feeds = [old.feed(), b.feed()]
    run(engine, feeds, [notes], stop=stop, status=status, control=control, clock=clock)
    assert early == [0], "in the time that it is given it keeps its name"
    first = ["connecting"] if where == "open" else ["connecting", "playing"]
    ended = (
        ["ended"] if where == "open" else ["ended", "ended"]
    )  # and then it is told that it hangs
    assert notes.states("a") == [*first, *ended, "connecting", "playing"]
    assert max(Counted.dropped_ever) < DROPPED
    assert slots == [9], "three places for each: none is used that a driver may still fill"
    assert "playing" in notes.states("c")
    assert len(made) == 9, "when it has ended they are"
    assert not status.stuck
