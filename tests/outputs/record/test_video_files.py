"""VideoFiles: labelled frames in files that stay readable, however the recording ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import OptionError, StorageError
from edge.outputs.record import video_files, video_writer
from edge.outputs.record.encoder import Encoder
from edge.outputs.record.overlay import captioned
from edge.outputs.record.video_files import VideoFiles
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame
from edge.sources.source import Source

ROOT = Path(__file__).parents[3]


def frame(pixels: np.ndarray, number: int, source: str = "gate", rate: float = 30) -> Frame:
    """A frame of a file that is read as fast as possible: only its stream time is meaningful."""
    return Frame(source, number, number / rate, 100.0, "system", Surface.from_rgb(pixels))


def record(videos: VideoFiles, shown: Frame, label: str = "a label") -> None:
    """Record a frame; a frame of a file waits for the encoder."""
    assert isinstance(shown.surface, Surface)
    drawn = captioned(shown.surface, (label,))
    videos.take(shown, lambda: drawn)


def frames_of(path: Path) -> list[Frame]:
    with Source(str(path)) as source:
        return list(iter(lambda: source.read(20), None))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_every_frame_is_in_the_video_at_its_time_with_its_label(
    suffix: str, paint: Any, number_in: Any, tmp_path: Path
) -> None:
    messages: list[str] = []
    path = tmp_path / f"video{suffix}"
    videos = VideoFiles(str(path), False, messages.append, messages.append)
    times = [0, 1, 2, 5, 6, 30, 31]  # in 1/30 s: a camera's frame rate is not constant
    for number in times:
        record(videos, frame(paint(number), number), "a label" if number < 30 else "")
    videos.close()
    shown = frames_of(path)
    assert [number_in(each.pixels[:240]) for each in shown] == times
    assert [each.pts for each in shown] == pytest.approx(
        [number / 30 for number in times], abs=2e-3
    )
    bright = [int(each.pixels[240:].max()) > 150 for each in shown]
    assert bright == [number < 30 for number in times], "text where there is a label"
    assert messages[0].startswith("recording with ")
    assert messages[1:] == [f"recording gate to {path}"]
    assert videos.lost == 0


def test_each_source_has_its_own_video(paint: Any, number_in: Any, tmp_path: Path) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), True, print, print)
    for number in range(5):
        record(videos, frame(paint(number), number, "rtsp://gate/1"))
        record(videos, frame(paint(100 + number), number, "yard"))
    videos.close()
    gate, yard = (tmp_path / f"video-{name}.mkv" for name in ("rtsp-gate-1", "yard"))
    assert [number_in(each.pixels[:240]) for each in frames_of(gate)] == [0, 1, 2, 3, 4]
    assert [number_in(each.pixels[:240]) for each in frames_of(yard)] == [100, 101, 102, 103, 104]


def test_an_existing_file_is_not_overwritten(paint: Any, tmp_path: Path) -> None:
    (tmp_path / "video.mkv").write_text("last night's")
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, print)
    record(videos, frame(paint(1), 0))
    videos.close()
    assert (tmp_path / "video.mkv").read_text() == "last night's"
    assert len(frames_of(tmp_path / "video-2.mkv")) == 1


def test_a_change_of_the_frame_size_starts_a_new_video(paint: Any, tmp_path: Path) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, print)
    for number in range(4):
        pixels = paint(number) if number < 2 else np.zeros((360, 640, 3), np.uint8)
        record(videos, frame(pixels, number))
    videos.close()
    first, second = frames_of(tmp_path / "video.mkv"), frames_of(tmp_path / "video-2.mkv")
    assert [each.pixels.shape[1] for each in first + second] == [320, 320, 640, 640]
    assert [each.pts for each in second] == pytest.approx([0, 1 / 30], abs=2e-3)


def test_a_folder_gets_a_new_video_every_ten_minutes(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "timestamp", lambda _: "20250131T120000.000Z")
    messages: list[str] = []
    videos = VideoFiles(str(tmp_path / "videos") + "/", False, messages.append, messages.append)
    for number in range(0, 1300, 100):
        record(videos, frame(paint(1), number, rate=1))
    videos.close()
    names = [f"20250131T120000.000Z-gate{number}.mkv" for number in ("", "-2", "-3")]
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == sorted(names)
    lengths = [len(frames_of(tmp_path / "videos" / name)) for name in names]
    assert lengths == [6, 6, 1]
    assert messages[1:] == [f"recording gate to {tmp_path}/videos/{names[0]}"]


def test_stream_time_that_restarts_is_bridged_by_capture_time(paint: Any, tmp_path: Path) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, print)
    surface = Surface.from_rgb(paint(1))
    for pts, captured in ((5.0, 100.0), (5.5, 100.5), (0.0, 103.5), (0.5, 104.0), (None, 105.0)):
        record(videos, Frame("gate", 0, pts, captured, "system", surface))
    videos.close()
    shown = [each.pts for each in frames_of(tmp_path / "video.mkv")]
    assert shown == pytest.approx([0, 0.5, 3.5, 4.0, 5.0], abs=2e-3)


def test_a_camera_clock_that_is_set_forward_leaves_no_gap(paint: Any, tmp_path: Path) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, print)
    surface = Surface.from_rgb(paint(1))
    for pts, captured in ((5.0, 100.0), (5.5, 100.6), (1005.5, 101.0), (1006.0, 101.5)):
        record(videos, Frame("gate", 0, pts, captured, "system", surface, live=True))
    videos.close()
    shown = [each.pts for each in frames_of(tmp_path / "video.mkv")]
    assert shown == pytest.approx([0, 0.5, 0.9, 1.4], abs=2e-3)


def test_the_video_of_a_source_that_ended_is_complete_while_others_continue(
    paint: Any, tmp_path: Path
) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), True, print, print)
    for source in ("gate", "yard"):
        record(videos, frame(paint(1), 0, source))
    videos.end("gate")
    videos.end("gate")
    assert len(frames_of(tmp_path / "video-gate.mkv")) == 1
    record(videos, frame(paint(2), 1, "yard"))
    videos.close()
    assert len(frames_of(tmp_path / "video-yard.mkv")) == 2


@pytest.mark.parametrize("live", [True, False], ids=["camera", "file"])
def test_if_the_encoder_is_too_slow_a_camera_loses_frames_and_a_file_waits(
    live: bool, tmp_path: Path
) -> None:
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, print)
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    drawn = captioned(Surface.from_rgb(noise), ("noise",))
    for number in range(60):
        videos.take(replace(frame(noise, number), live=live), lambda: drawn)
    videos.close()
    shown = frames_of(tmp_path / "video.mkv")
    assert (videos.lost > 0) == live
    assert len(shown) + videos.lost == 60


def test_an_encoder_that_is_stuck_is_given_up_and_reported(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_writer, "_STUCK_TIMEOUT", 0.2)
    messages: list[str] = []
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, messages.append)
    hour = 3600 * 10**9
    waits = f"identity sync=true ts-offset={hour} ! {videos._encoder.elements}"
    videos._encoder = Encoder("waits", waits, "")
    for number in range(20):
        record(videos, frame(paint(number), number))
    videos.close()
    [warning] = messages
    assert "no frame was accepted for" in warning
    assert "the recording of gate is paused" in warning
    assert videos.lost > 0


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_video_of_a_killed_process_is_readable(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"video{suffix}"
    code = f"""
import itertools, time
import numpy as np
from edge.preprocess.surface import Surface
from edge.outputs.record.overlay import captioned
from edge.outputs.record.video_files import VideoFiles
from edge.sources.frame import Frame

videos = VideoFiles({str(path)!r}, False, lambda text: None, lambda text: None)
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
surface = Surface.from_rgb(noise)
for number in itertools.count():
    videos.take(Frame("gate", number, number / 30, 0.0, "system", surface),
               lambda: captioned(surface, ("noise",)))
    if number == 200:
        print("started", flush=True)
    time.sleep(0.01)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Source(str(path)) as source:
        shown = 0
        try:
            while source.read(20) is not None:
                shown += 1
        except Exception as error:  # the file may end within a frame, and that may be reported
            assert "cut off" in str(error)
    assert shown > 60, "all but the last moment is in the file"


def test_a_full_disk_is_reported_once_and_recording_resumes_when_there_is_space(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "_RETRY", 0.0)
    monkeypatch.setattr(video_files, "_SPACE_INTERVAL", 0.0)
    messages: list[str] = []
    videos = VideoFiles(str(small_disk / "video.mkv"), False, messages.append, messages.append)
    rng = np.random.default_rng(0)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 400_000))
    number = 0

    def record_frames(frames: int) -> None:
        nonlocal number
        for _ in range(frames):
            record(videos, frame(rng.integers(0, 255, (240, 320, 3), np.uint8), number))
            number += 1

    while not videos.lost:
        record_frames(1)
        assert number < 1000, "the disk did not fill"
    record_frames(10)
    [warning] = messages[2:]
    assert re.search(r"is full|No space left|cannot write", warning)
    assert "the recording of gate is paused, and retried every" in warning
    filler.unlink()
    shutil.move(small_disk / "video.mkv", tmp_path / "video.mkv")
    record_frames(45)
    videos.close()
    assert any("gate is recorded again" in text for text in messages)
    assert len(messages) == 5, "nothing is reported twice"
    assert len(frames_of(tmp_path / "video.mkv")) > 0
    assert len(frames_of(small_disk / "video.mkv")) >= 45


def test_a_disk_that_another_process_fills_during_recording_is_an_error_of_the_recording_only(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "check_free_space", lambda _: None)
    messages: list[str] = []
    videos = VideoFiles(str(small_disk / "video.mkv"), False, messages.append, messages.append)
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    record(videos, frame(noise, 0))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    number = 1
    while len(messages) < 3:
        record(videos, frame(noise, number))
        number += 1
        assert number < 1000, "the full disk was not reported"
    assert re.search(r"cannot write .*video.mkv", messages[2])
    videos.close()
    assert videos.lost > 0


@pytest.mark.parametrize("target", ["video.avi", "videos.d/video.webm"])
def test_an_unsupported_suffix_is_refused_by_the_constructor(target: str) -> None:
    with pytest.raises(
        OptionError, match=r"neither \.mkv nor \.mp4; write .*video\.mkv, or a folder"
    ):
        VideoFiles(target, False, print, print)


def test_an_invalid_file_name_is_refused_by_the_constructor() -> None:
    with pytest.raises(StorageError, match=r"File name too long\); give it a shorter name"):
        VideoFiles("x" * 300, False, print, print)


def test_a_file_name_too_long_with_the_source_is_reported_once_and_frames_are_dropped(
    paint: Any, tmp_path: Path
) -> None:
    messages: list[str] = []
    videos = VideoFiles(str(tmp_path / f"{'x' * 245}.mkv"), True, print, messages.append)
    for number in range(3):
        record(videos, frame(paint(number), number, "a-camera"))
    videos.close()
    [warning] = messages
    assert "File name too long" in warning
    assert "the recording of a-camera is paused" in warning
    assert videos.lost == 3


def test_a_missing_gstreamer_element_is_reported_and_frames_are_dropped(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(video_writer._MUXERS, ".mkv", "nosuchmux")
    messages: list[str] = []
    videos = VideoFiles(str(tmp_path / "video.mkv"), False, print, messages.append)
    record(videos, frame(paint(0), 0))
    videos.close()
    assert ['no element "nosuchmux"' in text for text in messages] == [True]
    assert videos.lost == 1


def test_an_unwritable_target_is_refused_by_the_constructor(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        VideoFiles(str(tmp_path / "nowhere" / "video.mkv"), False, print, print)
