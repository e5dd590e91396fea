"""Films: labelled frames in files that play to their end, whatever ends the recording."""

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
from edge.outputs.record import video_files as films_module
from edge.outputs.record import video_writer
from edge.outputs.record.encoder import Encoder
from edge.outputs.record.overlay import captioned
from edge.outputs.record.video_files import VideoFiles
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame
from edge.sources.source import Source

ROOT = Path(__file__).parents[3]


def frame(pixels: np.ndarray, number: int, source: str = "gate", rate: float = 30) -> Frame:
    """A frame of a film that is read at once: only stream time says when it was."""
    return Frame(source, number, number / rate, 100.0, "system", Surface.from_rgb(pixels))


def record(films: VideoFiles, shown: Frame, label: str = "a label") -> None:
    """Record a frame; of a film it waits for the encoder."""
    assert isinstance(shown.surface, Surface)
    drawn = captioned(shown.surface, (label,))
    films.take(shown, lambda: drawn)


def frames_of(path: Path) -> list[Frame]:
    with Source(str(path)) as source:
        return list(iter(lambda: source.read(20), None))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_every_frame_is_in_the_film_at_its_time_with_its_label(
    suffix: str, paint: Any, number_in: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    path = tmp_path / f"film{suffix}"
    films = VideoFiles(str(path), False, said.append, said.append)
    times = [0, 1, 2, 5, 6, 30, 31]  # in 1/30 s: a camera does not come at a steady rate
    for number in times:
        record(films, frame(paint(number), number), "a label" if number < 30 else "")
    films.close()
    shown = frames_of(path)
    assert [number_in(each.pixels[:240]) for each in shown] == times
    assert [each.pts for each in shown] == pytest.approx(
        [number / 30 for number in times], abs=2e-3
    )
    bright = [int(each.pixels[240:].max()) > 150 for each in shown]
    assert bright == [number < 30 for number in times], "text where there is a label"
    assert said[0].startswith("recording with ")
    assert said[1:] == [f"recording gate to {path}"]
    assert films.lost == 0


def test_each_source_has_its_own_film(paint: Any, number_in: Any, tmp_path: Path) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), True, print, print)
    for number in range(5):
        record(films, frame(paint(number), number, "rtsp://gate/1"))
        record(films, frame(paint(100 + number), number, "yard"))
    films.close()
    gate, yard = (tmp_path / f"film-{name}.mkv" for name in ("rtsp-gate-1", "yard"))
    assert [number_in(each.pixels[:240]) for each in frames_of(gate)] == [0, 1, 2, 3, 4]
    assert [number_in(each.pixels[:240]) for each in frames_of(yard)] == [100, 101, 102, 103, 104]


def test_a_film_that_is_there_is_not_written_over(paint: Any, tmp_path: Path) -> None:
    (tmp_path / "film.mkv").write_text("last night's")
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, print)
    record(films, frame(paint(1), 0))
    films.close()
    assert (tmp_path / "film.mkv").read_text() == "last night's"
    assert len(frames_of(tmp_path / "film-2.mkv")) == 1


def test_a_picture_of_another_size_begins_a_new_film(paint: Any, tmp_path: Path) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, print)
    for number in range(4):
        pixels = paint(number) if number < 2 else np.zeros((360, 640, 3), np.uint8)
        record(films, frame(pixels, number))
    films.close()
    first, second = frames_of(tmp_path / "film.mkv"), frames_of(tmp_path / "film-2.mkv")
    assert [each.pixels.shape[1] for each in first + second] == [320, 320, 640, 640]
    assert [each.pts for each in second] == pytest.approx([0, 1 / 30], abs=2e-3)


def test_a_folder_gets_a_film_for_every_ten_minutes(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films_module, "stamp", lambda _: "20250131T120000.000Z")
    said: list[str] = []
    films = VideoFiles(str(tmp_path / "films") + "/", False, said.append, said.append)
    for number in range(0, 1300, 100):
        record(films, frame(paint(1), number, rate=1))
    films.close()
    names = [f"20250131T120000.000Z-gate{number}.mkv" for number in ("", "-2", "-3")]
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == sorted(names)
    lengths = [len(frames_of(tmp_path / "films" / name)) for name in names]
    assert lengths == [6, 6, 1]
    assert said[1:] == [f"recording gate to {tmp_path}/films/{names[0]}"]


def test_stream_time_that_begins_anew_goes_on_by_the_clock(paint: Any, tmp_path: Path) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, print)
    surface = Surface.from_rgb(paint(1))
    for pts, captured in ((5.0, 100.0), (5.5, 100.5), (0.0, 103.5), (0.5, 104.0), (None, 105.0)):
        record(films, Frame("gate", 0, pts, captured, "system", surface))
    films.close()
    shown = [each.pts for each in frames_of(tmp_path / "film.mkv")]
    assert shown == pytest.approx([0, 0.5, 3.5, 4.0, 5.0], abs=2e-3)


def test_a_cameras_clock_that_is_set_forward_makes_no_hole(paint: Any, tmp_path: Path) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, print)
    surface = Surface.from_rgb(paint(1))
    for pts, captured in ((5.0, 100.0), (5.5, 100.6), (1005.5, 101.0), (1006.0, 101.5)):
        record(films, Frame("gate", 0, pts, captured, "system", surface, live=True))
    films.close()
    shown = [each.pts for each in frames_of(tmp_path / "film.mkv")]
    assert shown == pytest.approx([0, 0.5, 0.9, 1.4], abs=2e-3)


def test_a_source_that_ended_leaves_a_whole_film_while_others_go_on(
    paint: Any, tmp_path: Path
) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), True, print, print)
    for source in ("gate", "yard"):
        record(films, frame(paint(1), 0, source))
    films.end("gate")
    films.end("gate")
    assert len(frames_of(tmp_path / "film-gate.mkv")) == 1
    record(films, frame(paint(2), 1, "yard"))
    films.close()
    assert len(frames_of(tmp_path / "film-yard.mkv")) == 2


@pytest.mark.parametrize("live", [True, False], ids=["camera", "film"])
def test_what_the_encoder_cannot_keep_up_with_is_left_out_of_a_camera_and_waits_of_a_film(
    live: bool, tmp_path: Path
) -> None:
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, print)
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    drawn = captioned(Surface.from_rgb(noise), ("noise",))
    for number in range(60):
        films.take(replace(frame(noise, number), live=live), lambda: drawn)
    films.close()
    shown = frames_of(tmp_path / "film.mkv")
    assert (films.lost > 0) == live
    assert len(shown) + films.lost == 60


def test_an_encoder_that_takes_nothing_more_is_given_up_and_said(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_writer, "_STUCK", 0.2)
    said: list[str] = []
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, said.append)
    hour = 3600 * 10**9
    waits = f"identity sync=true ts-offset={hour} ! {films._encoder.elements}"
    films._encoder = Encoder("waits", waits, "")
    for number in range(20):
        record(films, frame(paint(number), number))
    films.close()
    [why] = said
    assert "no picture went into it for" in why
    assert "the recording of gate pauses" in why
    assert films.lost > 0


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_kill_leaves_a_film_that_plays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"film{suffix}"
    code = f"""
import itertools, time
import numpy as np
from edge.preprocess.surface import Surface
from edge.outputs.record.overlay import captioned
from edge.outputs.record.video_files import Films
from edge.sources.frame import Frame

films = Films({str(path)!r}, False, lambda text: None, lambda text: None)
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
surface = Surface.from_rgb(noise)
for number in itertools.count():
    films.take(Frame("gate", number, number / 30, 0.0, "system", surface),
               lambda: captioned(surface, ("noise",)))
    if number == 200:
        print("under way", flush=True)
    time.sleep(0.01)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Source(str(path)) as source:
        shown = 0
        try:
            while source.read(20) is not None:
                shown += 1
        except Exception as error:  # its end may be half a picture, and that may be said
            assert "cut off" in str(error)
    assert shown > 60, "all but the last moment is there"


def test_a_full_disk_is_said_once_and_the_film_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films_module, "_RETRY", 0.0)
    monkeypatch.setattr(films_module, "_LOOK", 0.0)
    said: list[str] = []
    films = VideoFiles(str(small_disk / "film.mkv"), False, said.append, said.append)
    rng = np.random.default_rng(0)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 400_000))
    number = 0

    def play(frames: int) -> None:
        nonlocal number
        for _ in range(frames):
            record(films, frame(rng.integers(0, 255, (240, 320, 3), np.uint8), number))
            number += 1

    while not films.lost:
        play(1)
        assert number < 1000, "the disk did not fill"
    play(10)
    [why] = said[2:]
    assert re.search(r"is full|No space left|cannot write", why)
    assert "the recording of gate pauses, and is tried every" in why
    filler.unlink()
    shutil.move(small_disk / "film.mkv", tmp_path / "film.mkv")
    play(45)
    films.close()
    assert any("gate is recorded again" in text for text in said)
    assert len(said) == 5, "nothing is said twice"
    assert len(frames_of(tmp_path / "film.mkv")) > 0
    assert len(frames_of(small_disk / "film.mkv")) >= 45


def test_a_disk_that_another_fills_while_a_film_is_written_is_survived(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films_module, "check_room", lambda _: None)
    said: list[str] = []
    films = VideoFiles(str(small_disk / "film.mkv"), False, said.append, said.append)
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    record(films, frame(noise, 0))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    number = 1
    while len(said) < 3:
        record(films, frame(noise, number))
        number += 1
        assert number < 1000, "nothing was said of the full disk"
    assert re.search(r"cannot write .*film.mkv", said[2])
    films.close()
    assert films.lost > 0


@pytest.mark.parametrize("target", ["film.avi", "films.d/film.webm"])
def test_a_name_of_another_kind_is_refused_at_once(target: str) -> None:
    with pytest.raises(
        OptionError, match=r"neither \.mkv nor \.mp4; write .*film\.mkv, or a folder"
    ):
        VideoFiles(target, False, print, print)


def test_a_name_that_no_file_can_have_is_refused_at_once() -> None:
    with pytest.raises(StorageError, match=r"File name too long\); give it a shorter name"):
        VideoFiles("x" * 300, False, print, print)


def test_a_name_that_is_too_long_with_its_source_s_is_said_once_and_the_run_goes_on(
    paint: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    films = VideoFiles(str(tmp_path / f"{'x' * 245}.mkv"), True, print, said.append)
    for number in range(3):
        record(films, frame(paint(number), number, "a-camera"))
    films.close()
    [why] = said
    assert "File name too long" in why
    assert "the recording of a-camera pauses" in why
    assert films.lost == 3


def test_an_element_that_is_missing_is_said_and_the_run_goes_on(
    paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(video_writer._MUXERS, ".mkv", "nosuchmux")
    said: list[str] = []
    films = VideoFiles(str(tmp_path / "film.mkv"), False, print, said.append)
    record(films, frame(paint(0), 0))
    films.close()
    assert ['no element "nosuchmux"' in text for text in said] == [True]
    assert films.lost == 1


def test_a_film_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        VideoFiles(str(tmp_path / "nowhere" / "film.mkv"), False, print, print)
