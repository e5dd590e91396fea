"""Recording: each result goes to the output with its caption; the loop waits only for files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
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


class Output:
    """A `VideoOutput` that remembers its calls; with `hold` it waits for `go` before each frame."""

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


def test_label_and_time_are_drawn_below_each_frame(guess: Any) -> None:
    output = Output()
    recording = Recording(output, threading.Event(), print)
    recording.write(result(guess, 0))
    recording.close()
    [(frame, drawn)] = output.shown
    assert drawn.layout.format == "NV12", "in the camera's own format"
    text = bar(tuple(caption_lines(result(guess, 0))), 640)
    under = to_rgb(drawn)[242:, :, 1].astype(int)
    assert np.abs(under - text[2 : 2 + len(under)]).max() <= 2
    assert (frame.source, output.closed) == ("gate", 1)


def test_the_caption_has_the_best_class_the_time_and_the_source(guess: Any) -> None:
    assert caption_lines(result(guess, 0)) == [
        "class 7  75%",
        "2025-01-31 12:00:00 UTC, gate",
    ]


def test_a_frame_too_narrow_for_text_is_enlarged(guess: Any) -> None:
    output = Output()
    recording = Recording(output, threading.Event(), print)
    recording.write(result(guess, 0, width=64))
    recording.close()
    [(_, drawn)] = output.shown
    assert drawn.layout.width == 320


def test_a_turned_frame_is_recorded_upright(guess: Any) -> None:
    output, stored = Output(), result(guess, 0)
    surface: Any = stored.frame.surface
    turned = replace(surface, layout=replace(surface.layout, orientation=6))
    recording = Recording(output, threading.Event(), print)
    recording.write(replace(stored, frame=replace(stored.frame, surface=turned)))
    recording.close()
    [(_, drawn)] = output.shown
    assert turned.layout.height < turned.layout.width
    assert drawn.layout.height > drawn.layout.width
    assert drawn.layout.orientation == 1


def test_live_sources_never_wait_and_dropped_frames_are_counted_and_reported(guess: Any) -> None:
    warnings: list[str] = []
    output = Output(hold=True)
    recording = Recording(output, threading.Event(), warnings.append)
    for number in range(50):
        recording.write(result(guess, number))  # would block forever if it waited
    recording.write(result(guess, 0, source="yard"))
    output.go.set()
    recording.close()
    gate = [frame.number for frame, _ in output.shown if frame.source == "gate"]
    assert gate[-2:] == [48, 49], "the newest frames are queued"
    assert len(gate) <= 3, "so no more of the camera's buffers are held"
    assert recording.lost == 50 - len(gate)
    assert [frame.source for frame, _ in output.shown][-1] == "yard", (
        "each source has its own queue"
    )
    assert warnings == [f"{recording.lost} frames are missing from the recording"]


def write_file_results(recording: Recording, guess: Any, frames: int) -> threading.Thread:
    """Write results of a file, as the loop does, on a thread that may block."""

    def write() -> None:
        for number in range(frames):
            recording.write(result(guess, number, live=False))
        recording.changed(Transition("gate", "ended"))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def test_a_file_waits_until_its_frames_are_recorded_and_loses_none(guess: Any) -> None:
    output = Output(hold=True)
    recording = Recording(output, threading.Event(), print)
    writer = write_file_results(recording, guess, 50)
    writer.join(0.3)
    assert writer.is_alive()
    output.go.set()
    writer.join(60)
    recording.close()
    assert [frame.number for frame, _ in output.shown] == list(range(50))
    assert (recording.lost, output.ended) == (0, ["gate"])


def test_a_waiting_file_ends_when_the_run_is_stopped(guess: Any) -> None:
    stop, output = threading.Event(), Output(hold=True)
    recording = Recording(output, stop, print)
    writer = write_file_results(recording, guess, 50)
    writer.join(0.3)
    assert writer.is_alive()
    stop.set()
    writer.join(15)
    assert not writer.is_alive(), "0.1 s on an idle machine; without `stop` it would take 20 s"
    output.go.set()
    recording.close()


def test_the_video_of_a_source_ends_if_the_source_ended_or_failed_not_if_it_waits(
    guess: Any,
) -> None:
    output = Output()
    recording = Recording(output, threading.Event(), print)
    for source, state in (("a", "waiting"), ("b", "ended"), ("c", "failed"), ("d", "playing")):
        recording.changed(Transition(source, state))  # type: ignore[arg-type]
    recording.close()
    assert output.ended == ["b", "c"]


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
def test_an_unsupported_url_is_refused_without_showing_its_password(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"not a supported target; write video\.mkv") as caught:
        record(target, False, threading.Event(), print, print)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_read_as_fast_as_possible_is_recorded_completely(
    engine: Any, once: Any, tmp_path: Path
) -> None:
    """Noise is slow to encode and fast to label."""
    video = tmp_path / "video.mkv"
    recording = record(str(video), False, threading.Event(), print, print)
    picture = "video/x-raw,format=NV12,width=640,height=480,framerate=30/1"
    source = Source(f"gst:videotestsrc num-buffers=200 pattern=snow ! {picture}")
    measured = loop.run(engine, [once(source)], [recording])
    with Source(str(video)) as recorded:
        times = [frame.pts for frame in iter(lambda: recorded.read(20), None)]
    assert (measured.frames, recording.lost) == (200, 0)
    assert times == pytest.approx([number / 30 for number in range(200)], abs=2e-3)


def test_the_loop_records_each_frame_that_it_labels(
    numbered: Path, engine: Any, number_in: Any, once: Any, tmp_path: Path
) -> None:
    video = tmp_path / "video.mkv"
    recording = record(str(video), False, threading.Event(), print, print)
    source = Source(Camera(str(numbered), realtime=True))
    measured = loop.run(engine, [once(source)], [recording])
    with Source(str(video)) as recorded:
        frames = list(iter(lambda: recorded.read(20), None))
    assert len(frames) == measured.frames - recording.lost
    numbers = [number_in(each.pixels[:240]) for each in frames if each is not None]
    assert numbers == sorted(set(numbers))
    times = [each.pts - frames[0].pts for each in frames]
    assert times == pytest.approx([(number - numbers[0]) / 30 for number in numbers], abs=2e-3)
