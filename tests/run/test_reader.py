"""Sources that fail and come back: what is lost, what is told, and who is not disturbed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.errors import AccessError, BackendError, SilenceError, SourceError
from edge.preprocess.surface import Surface
from edge.run import crew, reader
from edge.run.feeds import Feed
from edge.run.frames import Frame
from edge.run.loop import Control, run
from edge.run.sinks import Result, Sink
from edge.run.status import Status, Transition

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
        self.flying: Callable[[], int] = lambda: 0
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
    live, camera, way = True, True, "here"

    def __init__(self, camera: Camera, first: int, script: Script):
        self._camera, self._number, self._script = camera, first, script
        self._left = 0
        self.dropped, self.interval = camera.dropped_each, None
        self._stopped = threading.Event()

    def __enter__(self) -> Opening:
        if self._script and isinstance(self._script[0], BaseException):
            raise self._script[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.held_at_close.append(self._camera.flying())

    def spacing(self, interval: float) -> float:
        return interval

    def read(self, timeout: float) -> Frame | None:
        while not self._left and self._script:
            step = self._script.pop(0)
            if isinstance(step, int):
                self._left = step
            elif step is None:
                return None
            else:
                raise step
        if not self._left:
            self._stopped.wait(WAIT)
            return None
        if self._stopped.wait(0.002):
            return None
        self._left -= 1
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
    monkeypatch.setattr(reader, "_STAYED", 0.0)
    run(engine, [Camera(paint, [[1, CUT]] * 3 + [[9]]).feed()], [], frames=4)
    assert [failures for failures, _ in hasty] == [0, 0, 0]


def test_a_bug_in_one_source_is_that_sources_failure(engine: Any, paint: Any) -> None:
    broken, notes = Camera(paint, [[2, ZeroDivisionError("a bug")]], "broken"), Notes()
    good = Camera(paint, [[10**6]], "good")
    summary = run(engine, [broken.feed(), good.feed()], [notes], frames=200)
    assert summary.sources["good"]["frames"] > 100
    said = [note.reason for note in notes.transitions if note.state == "waiting"]
    assert set(said) == {
        "broken fails (ZeroDivisionError: a bug); please report it, with what edge --debug shows"
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

    def begin(places: Any) -> None:
        assert not {place.tensor.ctypes.data for place in places} & spoilt
        start(places)

    def look(result: Result) -> None:
        if "waiting" in notes.states("broken") and len(broken.opened) > 1:
            last.append(result)
            if {late.frame.source for late in last} >= {"good", "fine"}:
                stop.set()

    last: list[Result] = []
    notes, engine.preprocess, engine.start = Notes(look), fail, begin
    threading.Timer(WAIT, stop.set).start()
    for camera in cameras:
        camera._paint = lambda number: paint(number % 200)
    run(engine, [camera.feed() for camera in (broken, *cameras)], [notes], stop=stop)
    assert {late.frame.source for late in last} >= {"good", "fine"}, "the others play on"
    said = {note.reason for note in notes.transitions if note.state == "waiting"}
    assert said == {
        "broken fails (ZeroDivisionError: a bug); please report it, with what edge --debug shows"
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
            if len(openings) < 9 and self._left == 8:
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
    first = next(place for place, note in enumerate(told) if isinstance(note, int))
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


def test_when_no_source_comes_at_all_the_first_error_ends_the_run(engine: Any, paint: Any) -> None:
    cameras = [Camera(paint, [[CUT]], name) for name in "ab"]
    with pytest.raises(SourceError) as caught:
        run(engine, [camera.feed() for camera in cameras], [])
    assert caught.value.__cause__ is CUT
    assert str(caught.value) == f"{CUT}; to keep trying add --wait"


def test_a_service_waits_for_the_first_camera(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[CUT]] * 5 + [[3]])
    assert run(engine, [camera.feed()], [], frames=2, wait=True).frames == 2


def test_a_camera_that_has_played_is_waited_for(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[2, CUT]] + [[CUT]] * 20 + [[3]])
    assert run(engine, [camera.feed()], [], frames=4).frames == 4


def test_without_reconnecting_the_first_failure_is_the_end(engine: Any, paint: Any) -> None:
    camera = Camera(paint, [[2, CUT]])
    with pytest.raises(SourceError) as caught:
        run(engine, [camera.feed(keep=False)], [])
    assert caught.value is CUT
    assert run(engine, [Camera(paint, [[2, None]]).feed(keep=False)], []).frames >= 1


def test_a_file_that_is_played_again_goes_on_counting(engine: Any, paint: Any) -> None:
    film, notes = OfItsOwn(paint, [[2, None], [2, None], [2]], camera=False), Notes()
    run(engine, [film.feed(keep=False, again=True)], [notes], frames=4)
    assert notes.states("a") == ["connecting", "playing"]


@pytest.mark.parametrize("known", [True, False])
def test_a_camera_beside_films_that_are_played_again_is_supervised_as_ever(
    engine: Any, paint: Any, known: bool, hasty: list[tuple[int, bool]]
) -> None:
    """What begins again at once is a film: a camera that hangs up has failed."""
    openings: list[Script] = [[2, None], [2, None], [9]]
    camera = Camera(paint, openings) if known else OfItsOwn(paint, openings, camera=True)
    notes = Notes()
    summary = run(engine, [camera.feed(again=True)], [notes], frames=5)
    assert notes.states("a") == ["connecting", *["playing", "waiting"] * 2, "playing"]
    assert summary.reconnects == len(hasty) == 2


def test_a_refused_password_is_tried_seldom(
    engine: Any, paint: Any, hasty: list[tuple[int, bool]]
) -> None:
    refused = AccessError("refused", "write it anew")
    run(engine, [Camera(paint, [[1, CUT], [refused], [refused], [9]]).feed()], [], frames=2)
    assert hasty == [(1, False), (2, True), (3, True)]


def test_only_silence_makes_it_more_patient(engine: Any, paint: Any) -> None:
    silent = SilenceError("no frame came", "wait")
    camera = Camera(paint, [[1, CUT], [CUT], [1, silent], [1, silent], [9]])
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
    engine.start = lambda places: (started.append(1), start(places))[1]
    engine.finish = lambda: (finish(), started.pop())[0]
    camera = Camera(paint, [[3, CUT]] * 4 + [[9]])
    camera.flying = lambda: len(started)
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


def test_sources_come_and_go_while_the_others_play(engine: Any, paint: Any) -> None:
    control, a, b = Control(), Camera(paint, [[10**6]], "a"), Camera(paint, [[10**6]], "b")

    def direct(result: Result) -> None:
        if (result.frame.source, result.frame.number) == ("a", 20):
            control.add(b.feed())
        if result.frame.source == "b" and not gone.is_set():
            gone.set()
            control.remove("a")
        if gone.is_set() and result.frame.source == "b" and result.frame.number > 60:
            stop.set()

    gone, stop, notes = threading.Event(), threading.Event(), Notes(direct)
    run(engine, [a.feed()], [notes], control=control, stop=stop)
    assert notes.states("b") == ["connecting", "playing"]
    assert notes.states("a") == ["connecting", "playing", "ended"]
    assert len(a.opened) == 1
    after = notes.notes.index(("a", "ended"))
    assert all(source == "b" for source, _ in notes.notes[after + 1 :])


def test_a_source_is_changed_by_taking_it_out_and_putting_it_in(engine: Any, paint: Any) -> None:
    control, stop = Control(), threading.Event()
    old, new = Camera(paint, [[10**6]]), Camera(paint, [[10**6]])
    asked: list[None] = []  # once: a frame of a certain number may give way to a newer one

    def direct(result: Result) -> None:
        if result.frame.number >= 5 and not asked:
            asked.append(control.remove("a"))
            control.add(new.feed())
        if new.opened and len(notes.states("a")) == 5:
            stop.set()

    notes = Notes(direct)
    run(engine, [old.feed()], [notes], control=control, stop=stop)
    assert notes.states("a") == ["connecting", "playing", "ended", "connecting", "playing"]


def test_of_one_name_there_is_one_source_however_fast_wishes_come(engine: Any, paint: Any) -> None:
    """As when a file is written and read anew twice, while the old camera is still closing."""
    control, stop = Control(), threading.Event()
    cameras = [Camera(paint, [[10**6]]) for _ in range(4)]
    asked: list[None] = []

    def direct(result: Result) -> None:
        if result.frame.number >= 5 and not asked:
            asked.append(None)
            for camera in cameras[1:]:
                control.remove("a")
                control.add(camera.feed())
        if cameras[3].opened and len(notes.states("a")) == 5:
            stop.set()

    notes = Notes(direct)
    run(engine, [cameras[0].feed()], [notes], control=control, stop=stop)
    assert [len(camera.opened) for camera in cameras] == [1, 0, 0, 1]


def test_a_source_that_is_wished_away_while_it_waits_for_its_name_is_not_played(
    engine: Any, paint: Any
) -> None:
    control, stop = Control(), threading.Event()
    old, new, other = (Camera(paint, [[10**6]], name) for name in ("a", "a", "b"))

    def direct(result: Result) -> None:
        if (result.frame.source, result.frame.number) == ("a", 5):
            control.remove("a")
            control.add(new.feed())
            control.remove("a")
        if notes.states("a")[-1] == "ended" and result.frame.number > 100:
            stop.set()

    notes = Notes(direct)
    run(engine, [old.feed(), other.feed()], [notes], control=control, stop=stop)
    assert new.opened == []


def test_once_a_camera_came_the_next_is_waited_for(engine: Any, paint: Any) -> None:
    """A new camera that is off does not end the run that it is put into."""
    control, old = Control(), Camera(paint, [[10**6]])
    new = Camera(paint, [[CUT]] * 9 + [[9]], "b")

    def direct(result: Result) -> None:
        if (result.frame.source, result.frame.number) == ("a", 3):
            control.remove("a")
            control.add(new.feed())

    notes = Notes(direct)
    stop = threading.Event()
    threading.Timer(WAIT, stop.set).start()
    notes._on_write = lambda result: stop.set() if result.frame.source == "b" else direct(result)
    run(engine, [old.feed()], [notes], control=control, stop=stop)
    assert notes.states("b") == ["connecting", "waiting", "playing"]


def test_places_of_a_source_that_went_are_used_again(engine: Any, paint: Any) -> None:
    made, place = [], engine.place
    engine.place = lambda: made.append(1) or place()
    control, stop = Control(), threading.Event()
    cameras = [Camera(paint, [[10**6]], f"{n}") for n in range(6)]

    def direct(result: Result) -> None:
        current = int(result.frame.source)
        if current == len(cameras) - 1:
            stop.set()
        elif not cameras[current + 1].opened and result.frame.number > 3:
            control.remove(f"{current}")
            control.add(cameras[current + 1].feed())

    notes = Notes(direct)
    run(engine, [cameras[0].feed()], [notes], control=control, stop=stop)
    assert len(made) <= 2 * 3


class Batches:
    """An engine that takes up to four frames, and waits for those that it is told to."""

    def __init__(self, engine: Any, ready: Callable[[], bool]):
        self.sizes: list[int] = []
        start = engine.start

        def counted(places: Any) -> None:
            self.sizes.append(len(places))
            deadline = time.monotonic() + WAIT
            while not ready() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)  # the network's work, in which each camera has a frame or more
            start(places)

        engine.batch, engine.start = 4, counted


def test_what_is_ready_is_one_batch_and_nobody_waits_for_a_slow_camera(
    engine: Any, paint: Any
) -> None:
    fast = [Camera(paint, [[10**6]], f"fast {n}") for n in range(4)]
    slow = Camera(paint, [[1]], "slow")  # one frame, then silence
    batches = Batches(engine, lambda: all(camera.opened for camera in fast))
    summary = run(engine, [camera.feed() for camera in (*fast, slow)], [], frames=120)
    assert max(batches.sizes) == 4
    assert set(batches.sizes) <= {1, 2, 4}, "few sizes: a GPU keeps a graph of each"
    shares = [summary.sources[camera.name]["frames"] for camera in fast]
    assert max(shares) <= 2 * min(shares), "all get their share"
    assert summary.sources["slow"]["frames"] == 1
    assert sum(batches.sizes) == 120


def test_results_of_a_batch_belong_to_their_frames(engine: Any, paint: Any) -> None:
    wrong = []

    def look(result: Result) -> None:
        if result.prediction.top(1)[0][0] != result.frame.number % 256:
            wrong.append(result)

    cameras = [Camera(paint, [[10**6]], f"{n}") for n in range(4)]
    batches = Batches(engine, lambda: True)
    run(engine, [camera.feed() for camera in cameras], [Notes(look)], frames=400)
    assert wrong == []
    assert max(batches.sizes) > 1


def test_what_looks_at_frames_sees_what_the_network_saw(engine: Any, paint: Any) -> None:
    """And the engine's own prediction, before it is smoothed."""
    seen, told = [], []

    def look(frame: Frame, prediction: Any, tensor: Callable[[], np.ndarray]) -> None:
        seen.append((frame.number % 256, prediction.class_id, int(tensor()[0, 0, 0])))

    def smooth(frame: Frame, prediction: Any) -> Any:
        return type(prediction)(7)

    cameras = [Camera(paint, [[10**6]], f"{n}") for n in range(4)]
    Batches(engine, lambda: True)
    notes = Notes(lambda result: told.append(result.prediction.class_id))
    run(engine, [c.feed() for c in cameras], [notes], frames=40, look=look, smooth=smooth)
    assert all(number == label == tensor for number, label, tensor in seen)
    assert set(told) == {7}


def test_the_limit_of_frames_holds_for_batches(engine: Any, paint: Any) -> None:
    cameras, notes = [Camera(paint, [[10**6]], f"{n}") for n in range(4)], Notes()
    Batches(engine, lambda: True)
    summary = run(engine, [camera.feed() for camera in cameras], [notes], frames=7)
    assert summary.frames == 7


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
    feed = Feed("a", lambda first, wait: Late(camera, first, [30]), live=True, keep=False)
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

    monkeypatch.setattr(reader, "BEHIND", 0.1)
    camera, notes = Camera(paint, [[10**6]]), Notes()
    run(engine, [Feed("a", opened, live=True, stall=0.2)], [notes], frames=400)
    assert notes.states("a")[:3] == ["connecting", "playing", "waiting"]
    assert "too late" in notes.transitions[2].reason


def test_the_loop_beats_while_it_has_nothing_to_do(engine: Any, paint: Any) -> None:
    """A service that waits for its cameras is alive; one whose engine hangs is not."""
    beats, stop = [], threading.Event()

    def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            stop.set()

    run(engine, [Camera(paint, [[]]).feed()], [], stop=stop, beat=beat)
    assert len(beats) >= 3


def test_a_run_that_is_over_waits_for_no_camera(engine: Any, paint: Any) -> None:
    stop = threading.Event()
    cameras = [Camera(paint, [[CUT]]), Camera(paint, [[]], "b")]
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    run(engine, [camera.feed() for camera in cameras], [], stop=stop, wait=True)
    assert time.monotonic() - began < WAIT / 2
    assert crew._JOIN < 2
