"""The loop: nothing lost from files, the newest from cameras, everything closed at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.errors import SourceError
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import Surface
from edge.run import loop, scheduler
from edge.run.interfaces import Result, Sink
from edge.run.summary import Summary
from edge.sources.feeds import Feed
from edge.sources.frame import Frame
from edge.sources.source import Source

FRAMES = 45
WAIT = 20.0  # seconds after which a thread that should have gone on never will


class Fake:
    """A source of painted frames; `gate(number)` runs when a frame, or the end, is asked for."""

    def __init__(
        self,
        paint: Callable[[int], np.ndarray],
        count: int,
        name: str = "fake",
        live: bool = False,
        gate: Callable[[int], None] = lambda number: None,
        error: BaseException | None = None,
    ):
        self.name, self.live, self.dropped, self.interval = name, live, 0, None
        self.camera, self.link = live, "local"
        self.closed = False
        self._paint, self._count, self._gate, self._error = paint, count, gate, error
        self._number = 0
        self.stopped, self.failed = threading.Event(), threading.Event()

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def spacing(self, interval: float) -> float:
        return interval

    def read(self, timeout: float) -> Frame | None:
        self._gate(self._number)
        if self._number == self._count:
            if self._error is not None:
                self.failed.set()
                raise self._error
            return None
        number, self._number = self._number, self._number + 1
        surface = Surface.from_rgb(self._paint(number))
        return Frame(self.name, number, number / 30, time.monotonic(), "system", surface)

    def stop(self) -> None:
        self.stopped.set()


class Silent(Fake):
    """A camera that never delivers a frame."""

    def read(self, timeout: float) -> Frame | None:
        assert self.stopped.wait(WAIT), "nobody stopped this source"
        return None


class List(Sink):
    """A sink that keeps what it gets."""

    def __init__(self, on_write: Callable[[Result], None] = lambda result: None):
        self.results: list[Result] = []
        self.closed = False
        self._on_write = on_write

    def write(self, result: Result) -> None:
        self.results.append(result)
        self._on_write(result)

    def close(self) -> None:
        self.closed = True

    @property
    def seen(self) -> list[tuple[str, int]]:
        return [(result.frame.source, result.frame.number) for result in self.results]


@pytest.fixture
def fake(paint: Callable[[int], np.ndarray]) -> Callable[..., Fake]:
    return lambda count, **options: Fake(paint, count, **options)


def run(engine: Any, sources: list[Any], sinks: list[Any], **options: Any) -> Summary:
    """The loop on sources that are there already, and are not opened anew."""
    feeds = [
        Feed(source.name, lambda *_, source=source: source, live=source.live, reconnect=False)
        for source in sources
    ]
    return loop.run(engine, feeds, sinks, **options)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader of")]


def test_every_frame_of_a_file_gets_its_own_label(engine: Any, numbered: Path) -> None:
    sink = List()
    summary = run(engine, [Source(str(numbered))], [sink])
    assert [result.frame.number for result in sink.results] == list(range(FRAMES))
    assert [result.prediction.top(1)[0][0] for result in sink.results] == list(range(FRAMES))
    assert all(result.age_ms >= result.latency_ms > 0 for result in sink.results)
    assert (summary.backend, summary.frame_path) == ("fake", "system memory")
    assert (summary.frames, summary.dropped, summary.reconnects) == (FRAMES, 0, 0)
    assert summary.fps == pytest.approx(FRAMES / summary.seconds, rel=0.1)
    assert set(summary.stages_ms) == {"preprocess", "infer"}
    for percentiles in (summary.age_ms, summary.latency_ms, *summary.stages_ms.values()):
        assert 0 < percentiles["p50"] <= percentiles["p90"] <= percentiles["p99"]
    ((name, numbers),) = summary.sources.items()
    assert name == numbered.as_uri()
    assert (numbers["frames"], numbers["dropped"]) == (FRAMES, 0)
    assert sink.closed
    assert readers() == []


def test_a_result_bears_the_time_of_its_picture_by_the_wall_clock_that_it_has_then(
    engine: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without a battery sets its clock while it runs, and it may go back."""
    sink, noon = List(), 1738324800.0
    set_back = SimpleNamespace(
        time=lambda: noon - 3600.0 * len(sink.results), monotonic=time.monotonic
    )
    monkeypatch.setattr(loop, "time", set_back)
    run(engine, [fake(3)], [sink])
    ages = [result.age_ms / 1e3 for result in sink.results]
    assert [result.time for result in sink.results] == [
        noon - 3600.0 * number - age for number, age in enumerate(ages)
    ]
    assert min(ages) > 0


class Flying:
    """An engine's two batches under way, and the frames that its places hold."""

    def __init__(self, engine: Any):
        self.path, self.held, self.in_flight = engine._path, set(), 0
        self.most = 0
        engine.depth = 2
        engine.slot, engine.start, engine.finish = self.slot, self.start, self.finish

    def slot(self) -> Any:
        slot, in_flight = self.path.slot(), self

        class Held:
            tensor = slot.tensor

            def put(self, frame: Frame) -> None:
                slot.put(frame)
                in_flight.held.add(id(self))
                in_flight.most = max(in_flight.most, len(in_flight.held))

            def clear(self) -> None:
                in_flight.held.discard(id(self))

        return Held()

    def start(self, slots: Any) -> None:
        self.in_flight += 1
        self.path.start(slots)

    def finish(self) -> np.ndarray:
        self.in_flight -= 1
        return self.path.finish()


@pytest.mark.parametrize("live", [False, True])
def test_a_place_lets_go_of_its_frame_when_it_is_done(engine: Any, fake: Any, live: bool) -> None:
    """A camera has a few buffers, and makes no more frames while all of them are held."""
    in_flight = Flying(engine)
    run(engine, [fake(40, live=live)], [])
    assert (in_flight.held, in_flight.in_flight) == (set(), 0)
    assert in_flight.most <= 4


def test_a_place_is_free_when_the_sinks_were_told(engine: Any, fake: Any) -> None:
    """Its reader, woken before, would take the interpreter from them, while the engine waits."""
    in_flight, held = Flying(engine), []
    run(engine, [fake(40)], [List(lambda _: held.append(len(in_flight.held)))])
    assert len(held) == 40
    assert min(held) == 1


@pytest.mark.parametrize("error", [BrokenPipeError(), RuntimeError("full")])
def test_what_was_started_is_finished_before_anything_is_let_go(
    engine: Any, fake: Any, error: Exception
) -> None:
    """The GPU may still read the frames of batches whose results nobody wants any more."""
    in_flight = Flying(engine)
    source = fake(40)
    left = []
    source.stop = lambda: left.append(in_flight.in_flight)  # the first thing that ends

    def fail(result: Result) -> None:
        if result.frame.number == 3:
            raise error

    with suppress(RuntimeError):
        run(engine, [source], [List(fail)])
    assert left == [0]


def test_the_next_frame_is_preprocessed_while_the_engine_works(engine: Any, fake: Any) -> None:
    prepared = [threading.Event() for _ in range(10)]
    preprocess, infer = engine.preprocess, engine.infer

    def telling(pixels: np.ndarray, out: np.ndarray) -> None:
        preprocess(pixels, out)
        prepared[int(out[0, 0, 0])].set()

    def waiting(batch: np.ndarray) -> np.ndarray:
        after = min(int(batch[0, 0, 0, 0]) + 1, 9)
        assert prepared[after].wait(WAIT), f"frame {after} waits for the engine"
        return infer(batch)

    engine.preprocess, engine.infer = telling, waiting
    assert run(engine, [fake(10)], []).frames == 10


def test_of_cameras_only_the_next_one_s_frames_are_prepared_meanwhile(
    engine: Any, fake: Any
) -> None:
    """The others' give way to newer ones first; and yet each label is of the newest."""
    delivered = {name: threading.Event() for name in "abc"}
    working, prepared = threading.Event(), []
    preprocess, infer = engine.preprocess, engine.infer

    def gate(name: str) -> Callable[[int], None]:
        def ask(number: int) -> None:
            if number == 1:  # the engine has a first frame, the other cameras wait their turn
                assert working.wait(WAIT)
            if number == 20:
                delivered[name].set()
                time.sleep(0.01)

        return ask

    def spying(pixels: np.ndarray, out: np.ndarray) -> None:
        prepared.append(threading.current_thread().name.removeprefix("reader of "))
        preprocess(pixels, out)

    def slow(batch: np.ndarray) -> np.ndarray:
        if not working.is_set():
            prepared.clear()
            working.set()
            assert all(event.wait(WAIT) for event in delivered.values())
            counts.update({name: prepared.count(name) for name in delivered})
        return infer(batch)

    counts: dict[str, int] = {}
    engine.preprocess, engine.infer = spying, slow
    sink = List()
    run(engine, [fake(21, name=name, live=True, gate=gate(name)) for name in delivered], [sink])
    assert sum(sorted(counts.values())[:2]) <= 2  # begun before it was known whose turn is next
    assert max(counts.values()) >= 19
    for name in delivered:
        numbers = [number for source, number in sink.seen if source == name]
        assert numbers[-1] == 20
        assert len(numbers) <= 4


def test_buffers_are_allocated_once(engine: Any, fake: Any) -> None:
    addresses, infer = set(), engine.infer

    def observe(batch: np.ndarray) -> np.ndarray:
        addresses.add(batch.ctypes.data)
        return infer(batch)

    engine.infer = observe
    run(engine, [fake(30)], [])
    assert 2 <= len(addresses) <= 3


def test_sources_take_turns(engine: Any, fake: Any) -> None:
    count = 6
    asked = {"a": 0, "b": 0}  # frames whose next one was asked for: they are ready
    given = {"a": 0, "b": 0}
    condition = threading.Condition()

    def gate(name: str) -> Callable[[int], None]:
        def ask(number: int) -> None:
            with condition:
                asked[name] = number
                condition.notify()

        return ask

    def ready() -> bool:
        return all(asked[name] > min(given[name], count - 1) for name in given)

    def infer(batch: np.ndarray) -> np.ndarray:
        with condition:
            assert condition.wait_for(ready, WAIT), "each source has its next frame ready"
        return np.zeros((1, 256), np.float32)

    def count_up(result: Result) -> None:
        with condition:
            given[result.frame.source] += 1

    engine.infer = infer
    sink = List(count_up)
    sources = [fake(count, name=name, gate=gate(name)) for name in given]
    summary = run(engine, sources, [sink])
    first, second = sink.seen[0][0], sink.seen[1][0]
    assert {first, second} == {"a", "b"}
    assert sink.seen == [(name, number) for number in range(count) for name in (first, second)]
    assert {name: numbers["frames"] for name, numbers in summary.sources.items()} == {
        "a": 6,
        "b": 6,
    }


def test_of_a_live_source_the_newest_frame_wins(engine: Any, fake: Any) -> None:
    taken, consumed, infer = threading.Event(), threading.Event(), engine.infer

    def slow(batch: np.ndarray) -> np.ndarray:
        taken.set()
        assert consumed.wait(WAIT)
        return infer(batch)

    def gate(number: int) -> None:
        # The engine has frame 0 before 1 to 8 come; when 9 is asked for, 8 is the newest.
        if number == 1:
            assert taken.wait(WAIT)
        if number == 9:
            consumed.set()
            assert done.wait(WAIT)

    done = threading.Event()
    engine.infer = slow
    sink = List(lambda result: done.set() if result.frame.number == 8 else None)
    source = fake(10, live=True, gate=gate)
    source.dropped = 5  # what the camera itself dropped counts too
    summary = run(engine, [source], [sink])
    assert [number for _, number in sink.seen] == [0, 8, 9]
    assert [result.prediction.top(1)[0][0] for result in sink.results] == [0, 8, 9]
    assert summary.dropped == summary.sources["fake"]["dropped"] == 7 + 5


def test_a_real_camera_and_a_slow_engine(engine: Any) -> None:
    """Up to the last frame labelled, every frame is labelled or counted as dropped."""
    engine.preprocess = lambda picture, out: out.fill(to_rgb(picture)[0, 0, 0])
    infer = engine.infer
    naps = threading.Event()

    def slow(batch: np.ndarray) -> np.ndarray:
        naps.wait(0.15)  # the engine's work
        return infer(batch)

    engine.infer = slow
    sink = List()
    summary = run(engine, [Source("test://ball")], [sink], frames=5)
    numbers = [number for _, number in sink.seen]
    assert len(numbers) == 5
    assert numbers == sorted(set(numbers))
    lost = summary.dropped + summary.stale
    assert numbers[-1] + 1 <= summary.frames + lost
    assert lost >= 5


def test_frames_limit(engine: Any, fake: Any) -> None:
    sink = List()
    source = fake(1000)
    assert run(engine, [source], [sink], frames=4).frames == 4
    assert [number for _, number in sink.seen] == [0, 1, 2, 3]
    assert source.closed
    assert sink.closed
    assert readers() == []


@pytest.mark.parametrize("frames", [0, 3])
def test_stop(frames: int, engine: Any, paint: Any) -> None:
    """`stop` ends a run whose cameras are silent, or whose file never ends."""
    stop = threading.Event()
    sink = List(lambda result: stop.set() if result.frame.number == frames - 1 else None)
    if frames:
        sources: list[Fake] = [Fake(paint, 10**9), Silent(paint, 1)]
    else:
        sources = [Silent(paint, 1), Silent(paint, 1)]
        threading.Timer(0.05, stop.set).start()
    summary = run(engine, sources, [sink], stop=stop)
    assert summary.frames == frames
    assert summary.age_ms["p50"] is None or frames
    assert all(source.closed for source in sources)
    assert sink.closed
    assert readers() == []


def test_stop_before_the_start(engine: Any) -> None:
    stop = threading.Event()
    stop.set()
    assert run(engine, [Source("test://ball")], [], stop=stop).frames == 0


def test_stop_ends_a_real_camera(engine: Any) -> None:
    stop = threading.Event()
    engine.preprocess = lambda pixels, out: out.fill(1)
    sink = List(lambda result: stop.set() if result.frame.number >= 3 else None)
    assert run(engine, [Source("test://ball")], [sink], stop=stop).frames >= 1
    assert readers() == []


def test_an_error_in_a_reader_comes_out_as_itself(engine: Any, fake: Any) -> None:
    error = SourceError("the cable is out", "put it in")
    sink, broken = List(), fake(3, error=error)
    infer = engine.infer

    def late(batch: np.ndarray) -> np.ndarray:
        if batch[0, 0, 0, 0] == 1:
            assert broken.failed.wait(WAIT), "frame 2 is ready, and the source has failed"
        return infer(batch)

    engine.infer = late
    with pytest.raises(SourceError) as caught:
        run(engine, [broken], [sink])
    assert caught.value is error
    assert [number for _, number in sink.seen] == [0, 1, 2], "the frames before it are good"
    assert broken.closed
    assert sink.closed


def test_a_file_that_fails_does_not_stop_the_others(engine: Any, fake: Any) -> None:
    sink, error = List(), SourceError("it is cut off", "copy it again")
    with pytest.raises(SourceError, match="cut off"):
        run(engine, [fake(2, name="a", error=error), fake(20, name="b")], [sink])
    assert sum(name == "b" for name, _ in sink.seen) == 20


def test_what_was_measured_is_told_however_the_run_ends(engine: Any, fake: Any) -> None:
    told: list[Any] = []
    with pytest.raises(SourceError):
        run(engine, [fake(3, error=SourceError("out", "in"))], [], on_end=told.append)
    assert [summary.frames for summary in told] == [3]
    assert run(engine, [fake(3)], [], on_end=told.append) == told[1]


def test_a_source_that_cannot_be_opened(engine: Any, media: Path) -> None:
    with pytest.raises(SourceError, match="is not a video"):
        run(engine, [Source(str(media / "text.mp4"))], [])


@pytest.mark.parametrize("stage", ["infer", "predict"])
def test_an_error_of_the_engine(stage: str, engine: Any, fake: Any) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("engine")

    setattr(engine, stage, fail)
    sink, source = List(), fake(1000)
    with pytest.raises(ZeroDivisionError, match="engine"):
        run(engine, [source], [sink])
    assert source.closed
    assert sink.closed
    assert readers() == []


def test_an_error_of_a_sink(engine: Any, fake: Any) -> None:
    def fail(result: Result) -> None:
        raise ZeroDivisionError("sink")

    bad, good, source = List(fail), List(), fake(1000)
    with pytest.raises(ZeroDivisionError, match="sink"):
        run(engine, [source], [bad, good])
    assert source.closed
    assert bad.closed
    assert good.closed


def test_a_reader_of_the_results_that_goes_away_ends_the_run(engine: Any, fake: Any) -> None:
    def gone(result: Result) -> None:
        if result.frame.number == 2:
            raise BrokenPipeError

    sink, source = List(gone), fake(1000)
    assert run(engine, [source], [sink]).frames == 3
    assert source.closed
    assert sink.closed


def test_sinks_close_after_the_sources(engine: Any, fake: Any) -> None:
    source, order = fake(2), []

    class Last(List):
        def close(self) -> None:
            order.append(source.closed)

    run(engine, [source], [Last()])
    assert order == [True]


def test_a_stuck_driver_does_not_hold_the_exit(
    engine: Any, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    class Stuck(Fake):
        def __exit__(self, *_: object) -> None:
            free.wait(WAIT)

    monkeypatch.setattr(scheduler, "_CLOSE_SECONDS", 0.05)
    assert run(engine, [Stuck(paint, 9)], [], frames=2).frames == 2
    free.set()


def test_times_are_measured_with_the_clock_given(engine: Any, fake: Any) -> None:
    ticks = iter(range(10**6))
    sink = List()
    summary = run(engine, [fake(3)], [sink], clock=lambda: next(ticks))
    assert all(result.latency_ms >= 1000 for result in sink.results)
    assert summary.stages_ms["infer"]["p50"] >= 990
