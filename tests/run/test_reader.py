"""Sources that fail and come back: what is lost, what is told, and who is not disturbed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.errors import AccessError, BackendError, SilenceError, SourceError
from edge.preprocess.surface import Surface
from edge.run import connection, reader, scheduler
from edge.run.interfaces import Result
from edge.run.loop import run
from edge.run.status import Status, Transition
from edge.sources.feeds import Feed
from edge.sources.frame import Frame
from tests.scripted_sources import CUT, WAIT, Camera, Notes, OfItsOwn, Opening, Script


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Tries follow each other at once; what `backoff` was asked."""
    asked = []

    def none(failures: int, *, refused: bool = False) -> float:
        asked.append((failures, refused))
        return 0.001

    monkeypatch.setattr(reader, "backoff", none)
    return asked


def test_a_camera_that_fails_is_opened_anew(engine: Any, paint: Any) -> None:
    camera, notes = Camera(paint, [[3, CUT], [CUT], [3]]), Notes()
    summary = run(engine, [camera.feed()], [notes], frames=4)
    assert notes.states("a") == ["connecting", "playing", "waiting", "playing"]
    numbers = [note for _, note in notes.notes if isinstance(note, int)]
    assert numbers == sorted(set(numbers)), "numbers go on: no two frames have the same"
    assert (summary.reconnects, summary.sources["a"]["reconnects"]) == (1, 1)
    assert len(camera.opened) == 3
    *_, again = notes.transitions
    assert again.outage is not None
    assert 0 < again.outage < WAIT


def test_only_a_camera_that_stayed_is_tried_at_once_again(
    engine: Any, paint: Any, hasty: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends a frame and breaks off, for a year, is asked less often."""
    run(engine, [Camera(paint, [[1, CUT]] * 3 + [[9]]).feed()], [], frames=4)
    assert [failures for failures, _ in hasty] == [1, 2, 3]
    hasty.clear()
    monkeypatch.setattr(reader, "_STABLE_SECONDS", 0.0)
    run(engine, [Camera(paint, [[1, CUT]] * 3 + [[9]]).feed()], [], frames=4)
    assert [failures for failures, _ in hasty] == [0, 0, 0]


def test_a_bug_in_one_source_is_that_sources_failure(engine: Any, paint: Any) -> None:
    broken, notes = Camera(paint, [[2, ZeroDivisionError("a bug")]], "broken"), Notes()
    good = Camera(paint, [[10**6]], "good")
    summary = run(engine, [broken.feed(), good.feed()], [notes], frames=200)
    assert summary.sources["good"]["frames"] > 100
    said = [note.reason for note in notes.transitions if note.state == "waiting"]
    assert set(said) == {
        "broken fails (ZeroDivisionError: a bug); "
        "please report this with the output of edge --debug"
    }


@pytest.mark.parametrize("thread", ["reader", "MainThread"])
def test_a_picture_that_cannot_be_prepared_is_its_sources_failure(
    engine: Any, paint: Any, thread: str
) -> None:
    """Wherever that is found out: on the source's own thread, or on the loop's when its turn is."""
    cameras = [Camera(paint, [[10**6]], name) for name in ("good", "fine")]
    broken = Camera(lambda number: paint(255), [[10**6]], "broken")
    preprocess, start, stop = engine.preprocess, engine.start, threading.Event()
    spoilt: set[int] = set()

    def fail(picture: Surface, out: np.ndarray) -> None:
        preprocess(picture, out)
        spoilt.discard(out.ctypes.data)
        if out[0, 0, 0] == 255 and threading.current_thread().name.startswith(thread):
            spoilt.add(out.ctypes.data)
            raise ZeroDivisionError("a bug")

    def begin(slots: Any) -> None:
        assert not {slot.tensor.ctypes.data for slot in slots} & spoilt
        start(slots)

    def observe(result: Result) -> None:
        if "waiting" in notes.states("broken") and len(broken.opened) > 1:
            last.append(result)
            if {late.frame.source for late in last} >= {"good", "fine"}:
                stop.set()

    last: list[Result] = []
    notes, engine.preprocess, engine.start = Notes(observe), fail, begin
    threading.Timer(WAIT, stop.set).start()
    for camera in cameras:
        camera._paint = lambda number: paint(number % 200)
    run(engine, [camera.feed() for camera in (broken, *cameras)], [notes], stop=stop)
    assert {late.frame.source for late in last} >= {"good", "fine"}, "the others play on"
    said = {note.reason for note in notes.transitions if note.state == "waiting"}
    assert said == {
        "broken fails (ZeroDivisionError: a bug); "
        "please report this with the output of edge --debug"
    }


def test_a_source_that_fails_to_close_is_opened_anew(engine: Any, paint: Any) -> None:
    class Broken(Opening):
        def __exit__(self, *_: object) -> None:
            if len(camera.opened) == 1:
                raise ZeroDivisionError("a bug")

    def opened(first: int, wait: float) -> Any:
        camera.opened.append((first, wait))
        return Broken(camera, first, [2, None] if len(camera.opened) == 1 else [9])

    camera, notes = Camera(paint, []), Notes()
    run(engine, [Feed("a", opened, live=True)], [notes], frames=4)
    assert [note.reason.partition(" (")[0] for note in notes.transitions[1:]] == [
        *("", "the stream ended", "a fails", "")
    ]


def test_nothing_is_kept_of_a_source_that_failed(engine: Any, paint: Any) -> None:
    """Its error's traceback holds it: a circle would, until Python looks for circles."""
    openings: list[weakref.ref[Opening]] = []
    alive: list[int] = []

    class Failing(Opening):
        def read(self, timeout: float) -> Frame | None:
            if len(openings) < 9 and self._frames_left == 8:
                raise SourceError("the cable is out", "put it in")
            return super().read(timeout)

    def opened(first: int, wait: float) -> Any:
        alive.append(sum(opening() is not None for opening in openings))
        opening = Failing(camera, first, [9])
        openings.append(weakref.ref(opening))
        return opening

    camera = Camera(paint, [])
    gc.collect()
    gc.disable()
    try:
        run(engine, [Feed("a", opened, live=True)], [], frames=10)
    finally:
        gc.enable()
    assert len(alive) == 9
    assert max(alive) <= 1


def test_the_end_of_a_stream_is_an_outage_too(engine: Any, paint: Any) -> None:
    """A camera that restarts in good order says goodbye."""
    camera, notes = Camera(paint, [[2, None], [2]]), Notes()
    run(engine, [camera.feed()], [notes], frames=3)
    assert notes.transitions[2] == Transition("a", "waiting", "the stream ended")


def test_that_it_plays_is_told_before_its_first_frame(engine: Any, paint: Any) -> None:
    camera, notes = Camera(paint, [[2, CUT], [500]]), Notes()
    run(engine, [camera.feed()], [notes], frames=3)
    told = [note for _, note in notes.notes]
    first = next(slot for slot, note in enumerate(told) if isinstance(note, int))
    assert told[first - 1] == "playing"


def test_a_reason_is_told_once_however_often_it_is_tried(engine: Any, paint: Any) -> None:
    other = SourceError("no route", "see the switch")
    openings: list[Script] = [[1, CUT], [CUT], [CUT], [CUT], [other], [other], [5]]
    camera, notes = Camera(paint, openings), Notes()
    run(engine, [camera.feed()], [notes], frames=2)
    said = [note.reason for note in notes.transitions if note.state == "waiting"]
    assert said == [str(CUT), str(other)]


def test_a_source_that_never_comes_does_not_stop_the_others(engine: Any, paint: Any) -> None:
    gone, good = Camera(paint, [[CUT]], "gone"), Camera(paint, [[1000]], "good")
    notes = Notes()
    run(engine, [gone.feed(), good.feed()], [notes], frames=50)
    assert sum(note == ("gone", "waiting") for note in notes.notes) == 1
    assert len(gone.opened) > 1


def test_what_turns_out_to_be_a_camera_while_it_is_off_is_waited_for(
    engine: Any, paint: Any
) -> None:
    late, good = (
        OfItsOwn(paint, [[CUT], [CUT], [9]], "late", camera=True),
        Camera(paint, [[10**6]], "good"),
    )
    stop = threading.Event()
    notes = Notes(lambda result: stop.set() if result.frame.source == "late" else None)
    threading.Timer(WAIT, stop.set).start()
    run(engine, [late.feed(), good.feed()], [notes], stop=stop)
    assert notes.states("late") == ["connecting", "waiting", "playing"]


def test_what_is_no_camera_fails_for_good_and_the_others_play_on(engine: Any, paint: Any) -> None:
    gone, good = OfItsOwn(paint, [[CUT]], "gone", camera=False), Camera(paint, [[10**6]], "good")
    notes = Notes()
    run(engine, [gone.feed(), good.feed()], [notes], frames=50)
    assert notes.states("gone") == ["connecting", "failed"]
    assert len(gone.opened) == 1


def test_when_no_source_comes_at_all_the_run_ends_and_none_is_said_to_be_tried_again(
    engine: Any, paint: Any
) -> None:
    notes = Notes()
    with pytest.raises(SourceError) as caught:
        run(engine, [Camera(paint, [[CUT]], name).feed() for name in "ab"], [notes])
    assert caught.value.__cause__ is CUT
    assert str(caught.value) == f"{CUT}; to keep trying add --wait"
    assert notes.transitions[-1].state == "failed"


def test_of_several_sources_that_failed_the_error_of_the_last_ends_the_run(
    engine: Any, paint: Any
) -> None:
    """The others' were told when it was still on its way."""
    late = SourceError("late is cut off", "copy it again")
    cameras = [Camera(paint, [[CUT]], "a"), Camera(paint, [[1, late]], "late")]
    with pytest.raises(SourceError, match="late is cut off"):
        run(engine, [camera.feed(reconnect=False) for camera in cameras], [])


def test_a_service_waits_for_the_first_camera(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[CUT]] * 5 + [[3]])
    assert run(engine, [camera.feed()], [], frames=2, wait=True).frames == 2


def test_a_camera_that_has_played_is_waited_for(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[2, CUT]] + [[CUT]] * 20 + [[3]])
    assert run(engine, [camera.feed()], [], frames=4).frames == 4


def test_without_reconnecting_the_first_failure_is_the_end(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[2, CUT]])
    with pytest.raises(SourceError) as caught:
        run(engine, [camera.feed(reconnect=False)], [])
    assert caught.value is CUT
    assert run(engine, [Camera(paint, [[2, None]]).feed(reconnect=False)], []).frames >= 1


def test_a_file_that_is_played_again_goes_on_counting(engine: Any, paint: Any) -> None:
    film, notes = OfItsOwn(paint, [[2, None], [2, None], [2]], camera=False), Notes()
    run(engine, [film.feed(reconnect=False, loop=True)], [notes], frames=4)
    assert notes.states("a") == ["connecting", "playing"]


@pytest.mark.parametrize("known", [True, False])
def test_a_camera_beside_films_that_are_played_again_is_supervised_as_ever(
    engine: Any, paint: Any, known: bool, hasty: list[tuple[int, bool]]
) -> None:
    """What begins again at once is a film: a camera that hangs up has failed."""
    openings: list[Script] = [[2, None], [2, None], [9]]
    camera = Camera(paint, openings) if known else OfItsOwn(paint, openings, camera=True)
    notes = Notes()
    summary = run(engine, [camera.feed(loop=True)], [notes], frames=5)
    assert notes.states("a") == ["connecting", *["playing", "waiting"] * 2, "playing"]
    assert summary.reconnects == len(hasty) == 2


def test_a_refused_password_is_tried_seldom(
    engine: Any, paint: Any, hasty: list[tuple[int, bool]]
) -> None:
    refused = AccessError("refused", "write it anew")
    run(engine, [Camera(paint, [[1, CUT], [refused], [refused], [9]]).feed()], [], frames=2)
    assert hasty == [(1, False), (2, True), (3, True)]


def test_only_silence_makes_it_more_patient(engine: Any, paint: Any) -> None:
    timed_out = SilenceError("no frame came", "wait")
    camera = Camera(paint, [[1, CUT], [CUT], [1, timed_out], [1, timed_out], [9]])
    run(engine, [camera.feed(stall=5.0)], [], frames=4)
    assert [wait for _, wait in camera.opened] == [5, 5, 5, 10, 20]


def test_what_the_camera_dropped_is_counted_over_all_openings(engine: Any, paint: Any) -> None:
    camera, status = Camera(paint, [[1, CUT], [1, CUT], [5]]), Status()
    camera.dropped_each = 7
    run(engine, [camera.feed()], [], frames=3, status=status)
    assert status.sources[0].dropped >= 21


def test_a_source_closes_after_the_engine_has_done_with_its_frames(engine: Any, paint: Any) -> None:
    """Frames of a Jetson lie in the memory of their pipeline, and go with it."""
    started: list[int] = []
    start, finish = engine.start, engine.finish
    engine.start = lambda slots: (started.append(1), start(slots))[1]
    engine.finish = lambda: (finish(), started.pop())[0]
    camera = Camera(paint, [[3, CUT]] * 4 + [[9]])
    camera.in_flight = lambda: len(started)
    run(engine, [camera.feed()], [], frames=9)
    closed = camera.held_at_close[:-1]  # the last is closed by the end of the run
    assert closed == [0] * len(closed)
    assert len(closed) >= 2


def test_what_is_not_the_sources_fault_ends_the_run(engine: Any, paint: Any) -> None:
    def fail(*_: object) -> None:
        raise BackendError("the GPU is gone", "restart")

    engine.preprocess = fail
    with pytest.raises(BackendError):
        run(engine, [Camera(paint, [[9]]).feed()], [], wait=True)


def test_a_frame_that_waited_too_long_is_left_out(engine: Any, paint: Any) -> None:
    """A camera that hung and then sent what it had: those frames are not what it sees now."""

    class Late(Opening):
        def read(self, timeout: float) -> Frame | None:
            frame = super().read(timeout)
            if frame is None:
                return None
            late = 5.0 if frame.number in (10, 11) else 0.0
            return Frame(
                frame.source,
                frame.number,
                frame.number * 0.5,
                time.monotonic() - late,
                "system",
                frame.surface,
            )

    camera, notes, status = Camera(paint, [[10**6]]), Notes(), Status()
    feed = Feed("a", lambda first, wait: Late(camera, first, [30]), live=True, reconnect=False)
    stop = threading.Event()
    threading.Timer(3.0, stop.set).start()
    run(engine, [feed], [notes], frames=25, status=status, stop=stop)
    shown = {note for _, note in notes.notes if isinstance(note, int)}
    assert not shown & {10, 11}
    assert status.sources[0].stale + status.sources[0].dropped >= 2


def test_a_camera_whose_frames_come_later_and_later_is_opened_anew(
    engine: Any, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somewhere a queue has grown: what comes out of it will never be what the camera sees now."""

    class Behind(Opening):
        began = 0.0

        def read(self, timeout: float) -> Frame | None:
            frame = super().read(timeout)
            self.began = self.began or time.monotonic()
            if frame is None or len(camera.opened) > 1:
                return frame
            return replace(frame, captured=self.began + frame.number * 1e-6)

    def opened(first: int, wait: float) -> Any:
        camera.opened.append((first, wait))
        return Behind(camera, first, [10**6])

    monkeypatch.setattr(connection, "MAX_DELAY", 0.1)
    camera, notes = Camera(paint, [[10**6]]), Notes()
    run(engine, [Feed("a", opened, live=True, stall=0.2)], [notes], frames=400)
    assert notes.states("a")[:3] == ["connecting", "playing", "waiting"]
    assert "too late" in notes.transitions[2].reason


def test_the_loop_beats_while_it_has_nothing_to_do(engine: Any, paint: Any) -> None:
    """A service that waits for its cameras is alive; one whose engine hangs is not."""
    beats, stop = [], threading.Event()

    def heartbeat() -> None:
        beats.append(1)
        if len(beats) == 3:
            stop.set()

    run(engine, [Camera(paint, [[]]).feed()], [], stop=stop, heartbeat=heartbeat)
    assert len(beats) >= 3


def test_a_run_that_is_over_waits_for_no_camera(engine: Any, paint: Any) -> None:
    stop = threading.Event()
    cameras = [Camera(paint, [[CUT]]), Camera(paint, [[]], "b")]
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    run(engine, [camera.feed() for camera in cameras], [], stop=stop, wait=True)
    assert time.monotonic() - began < WAIT / 2
    assert scheduler._CLOSE_SECONDS < 2
