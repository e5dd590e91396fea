"""Sources are taken out and put in while a run goes on; the others play."""

from __future__ import annotations

import threading
from typing import Any

from edge.errors import BackendError
from edge.run.interfaces import Result
from edge.run.loop import run
from edge.run.scheduler import Control
from tests.scripted_sources import CUT, WAIT, Camera, Notes


def test_sources_come_and_go_while_the_others_play(engine: Any, paint: Any) -> None:
    control, a, b = Control(), Camera(paint, [[10**6]], "a"), Camera(paint, [[10**6]], "b")

    def direct(result: Result) -> None:
        if result.frame.number >= 20 and not asked:
            asked.append(control.add(b.feed()))
        if result.frame.source == "b" and not gone.is_set():
            gone.set()
            control.remove("a")
        if gone.is_set() and result.frame.source == "b" and result.frame.number > 60:
            stop.set()

    asked: list[None] = []  # once: a frame of a certain number may give way to a newer one
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
    asked: list[None] = []

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
    asked: list[None] = []

    def direct(result: Result) -> None:
        if result.frame.number >= 5 and not asked:
            asked.append(control.remove("a"))
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
        if not asked:
            asked.append(control.remove("a"))
            control.add(new.feed())

    asked: list[None] = []
    notes = Notes(direct)
    stop = threading.Event()
    threading.Timer(WAIT, stop.set).start()
    notes._on_write = lambda result: stop.set() if result.frame.source == "b" else direct(result)
    run(engine, [old.feed()], [notes], control=control, stop=stop)
    assert notes.states("b") == ["connecting", "waiting", "playing"]


def test_places_of_a_source_that_went_are_used_again(engine: Any, paint: Any) -> None:
    made, slot = [], engine.slot
    engine.slot = lambda: made.append(1) or slot()
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


def test_a_source_that_there_is_no_room_for_is_refused_by_name_and_the_others_play_on(
    engine: Any, paint: Any
) -> None:
    """Of seven places it gets one; the next gets those of a source that is taken out for it."""
    left, slot = [1] * 7, engine.slot

    def limited() -> Any:
        if not left:
            raise BackendError("cuMemAlloc failed: out of memory", "have fewer cameras")
        left.pop()
        return slot()

    engine.slot = limited
    control, stop = Control(), threading.Event()
    a, b, c, d = (Camera(paint, [[10**6]], name) for name in "abcd")

    def direct(result: Result) -> None:
        if not asked:
            asked.append("b and c")
            for camera in (b, c):
                control.add(camera.feed())
        if "failed" in notes.states("c") and "d" not in asked:
            asked.append("d")
            control.remove("b")
            control.add(d.feed())
        if result.frame.source == "d":
            stop.set()

    asked: list[str] = []
    notes = Notes(direct)
    threading.Timer(WAIT, stop.set).start()
    run(engine, [a.feed()], [notes], control=control, stop=stop)
    assert notes.states("c") == ["failed"]
    (why,) = [note.reason for note in notes.transitions if note.source == "c"]
    assert why == "cuMemAlloc failed: out of memory; have fewer cameras"
    assert c.opened == []
    assert "ended" not in notes.states("a")[:-1]
    assert notes.states("d")[:2] == ["connecting", "playing"]
