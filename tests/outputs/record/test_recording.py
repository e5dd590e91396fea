"""Recording: each result goes to the outlet with its words, and the loop never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import OptionError
from edge.outputs.preview import caption_lines
from edge.outputs.record.overlay import bar
from edge.outputs.record.recording import Recording, record
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.run import loop
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.camera import Camera
from edge.sources.frame import Frame
from edge.sources.source import Source


class Outlet:
    """Remembers what it was given; with `hold` it waits for `go` before each picture."""

    def __init__(self, hold: bool = False) -> None:
        self.lost = 0
        self.shown: list[tuple[Frame, Surface]] = []
        self.ended: list[str] = []
        self.closed = 0
        self.go = threading.Event()
        if not hold:
            self.go.set()

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        assert self.go.wait(60)
        self.shown.append((frame, draw()))

    def end(self, source: str) -> None:
        self.ended.append(source)

    def close(self) -> None:
        self.closed += 1


def result(
    guess: Any, number: int, width: int = 640, source: str = "gate", live: bool = True
) -> Result:
    layout = Layout("NV12", width, 240)
    sizes = (FORMATS["NV12"].plane_size(plane, width, 240) for plane in range(2))
    surface = Surface(layout, tuple(np.full(size, 128, np.uint8) for size in sizes))
    frame = Frame(source, number, number / 30, 0.0, "system", surface, live=live)
    return Result(frame, guess(7), 250.0, 10.0, 1738324800.9)


def test_the_label_and_the_time_stand_under_each_picture(guess: Any) -> None:
    outlet = Outlet()
    recording = Recording(outlet, threading.Event(), print)
    recording.write(result(guess, 0))
    recording.close()
    [(frame, drawn)] = outlet.shown
    assert drawn.layout.format == "NV12", "in the camera's own format"
    text = bar(tuple(caption_lines(result(guess, 0))), 640)
    under = to_rgb(drawn)[242:, :, 1].astype(int)
    assert np.abs(under - text[2 : 2 + len(under)]).max() <= 2
    assert (frame.source, outlet.closed) == ("gate", 1)


def test_the_words_are_the_best_class_and_when_and_where_it_was_seen(guess: Any) -> None:
    assert caption_lines(result(guess, 0)) == [
        "class 7  75%",
        "2025-01-31 12:00:00 UTC, gate",
    ]


def test_a_picture_too_narrow_for_text_is_enlarged(guess: Any) -> None:
    outlet = Outlet()
    recording = Recording(outlet, threading.Event(), print)
    recording.write(result(guess, 0, width=64))
    recording.close()
    [(_, drawn)] = outlet.shown
    assert drawn.layout.width == 320


def test_no_camera_waits_and_what_is_too_much_of_it_is_counted_and_said(guess: Any) -> None:
    said: list[str] = []
    outlet = Outlet(hold=True)
    recording = Recording(outlet, threading.Event(), said.append)
    for number in range(50):
        recording.write(result(guess, number))  # would never return
    recording.write(result(guess, 0, source="yard"))
    outlet.go.set()
    recording.close()
    gate = [frame.number for frame, _ in outlet.shown if frame.source == "gate"]
    assert gate[-2:] == [48, 49], "the newest wait"
    assert len(gate) <= 3, "and hold no more of the camera's memory"
    assert recording.lost == 50 - len(gate)
    assert [frame.source for frame, _ in outlet.shown][-1] == "yard", "each source has its room"
    assert said == [f"{recording.lost} frames are missing in the recording"]


def write_film(recording: Recording, guess: Any, frames: int) -> threading.Thread:
    """Write so many results of a film, as the loop does, on a thread that may wait."""

    def write() -> None:
        for number in range(frames):
            recording.write(result(guess, number, live=False))
        recording.changed(Transition("gate", "ended"))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def test_a_film_waits_until_its_frames_are_recorded_and_none_is_lost(guess: Any) -> None:
    outlet = Outlet(hold=True)
    recording = Recording(outlet, threading.Event(), print)
    film = write_film(recording, guess, 50)
    film.join(0.3)
    assert film.is_alive()
    outlet.go.set()
    film.join(60)
    recording.close()
    assert [frame.number for frame, _ in outlet.shown] == list(range(50))
    assert (recording.lost, outlet.ended) == (0, ["gate"])


def test_a_film_that_waits_ends_when_the_run_is_stopped(guess: Any) -> None:
    stop, outlet = threading.Event(), Outlet(hold=True)
    recording = Recording(outlet, stop, print)
    film = write_film(recording, guess, 50)
    film.join(0.3)
    assert film.is_alive()
    stop.set()
    film.join(15)
    assert not film.is_alive(), "0.1 s on an idle machine; work that hangs is given 20"
    outlet.go.set()
    recording.close()


def test_a_source_that_will_not_come_back_is_ended_and_one_that_waits_is_not(guess: Any) -> None:
    outlet = Outlet()
    recording = Recording(outlet, threading.Event(), print)
    for source, state in (("a", "waiting"), ("b", "ended"), ("c", "failed"), ("d", "playing")):
        recording.changed(Transition(source, state))  # type: ignore[arg-type]
    recording.close()
    assert outlet.ended == ["b", "c"]


@pytest.mark.parametrize(
    "target",
    [
        "rtmp://u:s3cret@host/x.flv",
        "rtmp://u:s3cret@host/x",
        "srt://host/x?passphrase=s3cret",
        "rtsp:/u:s3cret@host:8554/x",
        "RTMP://u:s3cret@host/x.mkv",
    ],
)
def test_an_address_at_which_nothing_is_served_is_refused_without_its_password(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"no place for video; write film\.mkv") as caught:
        record(target, False, threading.Event(), print, print)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_is_read_at_once_is_recorded_whole(
    engine: Any, once: Any, tmp_path: Path
) -> None:
    """Noise is hard to encode, and no work to label."""
    film = tmp_path / "film.mkv"
    recording = record(str(film), False, threading.Event(), print, print)
    picture = "video/x-raw,format=NV12,width=640,height=480,framerate=30/1"
    source = Source(f"gst:videotestsrc num-buffers=200 pattern=snow ! {picture}")
    measured = loop.run(engine, [once(source)], [recording])
    with Source(str(film)) as recorded:
        times = [frame.pts for frame in iter(lambda: recorded.read(20), None)]
    assert (measured.frames, recording.lost) == (200, 0)
    assert times == pytest.approx([number / 30 for number in range(200)], abs=2e-3)


def test_the_loop_records_what_it_labels(
    numbered: Path, engine: Any, number_in: Any, once: Any, tmp_path: Path
) -> None:
    film = tmp_path / "film.mkv"
    recording = record(str(film), False, threading.Event(), print, print)
    source = Source(Camera(str(numbered), realtime=True))
    measured = loop.run(engine, [once(source)], [recording])
    with Source(str(film)) as recorded:
        frames = list(iter(lambda: recorded.read(20), None))
    assert len(frames) == measured.frames - recording.lost
    numbers = [number_in(each.pixels[:240]) for each in frames if each is not None]
    assert numbers == sorted(set(numbers))
    times = [each.pts - frames[0].pts for each in frames]
    assert times == pytest.approx([(number - numbers[0]) / 30 for number in numbers], abs=2e-3)
