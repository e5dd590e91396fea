"""Lines and Preview: exact output, readers that leave, and a PNG that is complete or absent."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge.errors import StorageError
from edge.files import storage
from edge.outputs.json_lines import Lines, utc
from edge.outputs.preview import Preview, annotate
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.sources.frame import Frame

ROOT = Path(__file__).parents[2]
NOON = 1738324800.0  # 2025-01-31T12:00:00Z


class Stream(io.StringIO):
    """A stream that remembers what was readable each time it was flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (always writable)

    def flush(self) -> None:
        self.flushed.append(self.getvalue())

    def fileno(self) -> int:
        return self._file.fileno()


def result(guess: Any, number: int = 3, pts: float | None = 0.1, colour: int = 90) -> Result:
    pixels = np.full((240, 320, 3), colour, np.uint8)
    frame = Frame("test://ball", number, pts, 5.0, "system", Surface.from_rgb(pixels))
    return Result(frame, guess(7, confidence=0.12345678), 20.12345, 10.98765, NOON)


def test_json_lines(guess: Any) -> None:
    stream = Stream()
    sink = Lines(stream)
    sink.write(result(guess))
    sink.write(result(guess, number=4, pts=None))
    assert stream.flushed == [stream.getvalue().splitlines(True)[0], stream.getvalue()]
    first, second = stream.getvalue().splitlines()
    assert first == (
        '{"source": "test://ball", "frame": 3, "pts": 0.1, '
        '"time": "2025-01-31T12:00:00.000Z", "top": ['
        '{"label": "class 7", "class_id": 7, "confidence": 0.123457}, '
        '{"label": "class 0", "class_id": 0, "confidence": 0.001}, '
        '{"label": "class 1", "class_id": 1, "confidence": 0.001}, '
        '{"label": "class 2", "class_id": 2, "confidence": 0.001}, '
        '{"label": "class 3", "class_id": 3, "confidence": 0.001}], '
        '"age_ms": 20.123, "latency_ms": 10.988}'
    )
    assert json.loads(second)["pts"] is None
    sink.close()
    assert not stream.closed, "stdout is not ours to close"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (-0.25, "1969-12-31T23:59:59.750Z"),  # before 1970
        (NOON + 0.0625, "2025-01-31T12:00:00.062Z"),
    ],
)
def test_times_are_utc_to_the_millisecond(seconds: float, text: str) -> None:
    assert utc(seconds) == text


def test_a_reader_that_closes_the_pipe_raises_broken_pipe_and_prints_nothing() -> None:
    code = """
import sys
import numpy as np
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame
from edge.outputs.json_lines import Lines
from edge.run.interfaces import Result

class Guess:
    def top(self, k):
        return [(0, "zero", 1.0)]

sink = Lines(sys.stdout)
frame = Frame("x", 0, None, 0.0, "system", Surface.from_rgb(np.zeros((1, 1, 3), np.uint8)))
try:
    while True:
        sink.write(Result(frame, Guess(), 0.0, 0.0, 0.0))
except BrokenPipeError:
    sys.exit(7)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["source"] == "x"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 7


def lines_to(pipe: Any, count: int, live: bool, guess: Any, **options: Any) -> Lines:
    sink, template = Lines(pipe, **options), result(guess)
    for _ in range(count):
        sink.write(replace(template, frame=replace(template.frame, live=live)))
    return sink


def test_an_unread_pipe_does_not_block_a_live_source(guess: Any) -> None:
    warnings: list[str] = []
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        sink = lines_to(pipe, 1000, True, guess, warn=warnings.append)
        assert 0 < sink.lost < 1000
        assert warnings == ["nobody reads the results: they are dropped until somebody does"]
        os.set_blocking(reader, False)
        received = b"".join(iter(lambda: os.read(reader, 1 << 16) if ready(reader) else b"", b""))
        assert received.count(b"\n") == 1000 - sink.lost, "lines that were written are complete"
        lost = sink.lost
        sink.write(result(guess))
        assert sink.lost == lost
    os.close(reader)


def ready(reader: int) -> bool:
    return bool(select.select([reader], [], [], 0)[0])


def test_results_of_a_file_wait_for_the_reader_until_the_run_is_stopped(guess: Any) -> None:
    stop, (reader, writer) = threading.Event(), os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # holds a few lines at most
    with os.fdopen(writer, "w") as pipe:
        threading.Timer(0.5, stop.set).start()
        sink = lines_to(pipe, 12, False, guess, stop=stop)
        assert stop.is_set(), "it waited"
        assert sink.lost > 0
    os.close(reader)


def test_a_full_disk_raises_a_storage_error(guess: Any) -> None:
    with open(os.open("/dev/full", os.O_WRONLY), "w", closefd=False) as stream:
        with pytest.raises(StorageError, match=r"cannot write results .*; free some space"):
            Lines(stream).write(result(guess))
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_annotate_adds_a_bar_and_does_not_change_the_image() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8)
    before = picture.copy()
    shown = annotate(picture, ["tabby cat  97.5%", "frame 3"])
    assert shown.dtype == np.uint8
    assert shown.shape[0] > 360
    assert shown.shape[1:] == (640, 3)
    assert np.array_equal(shown[:360], before)
    assert np.array_equal(picture, before)
    bar = shown[360:]
    assert (bar.max(axis=2) > 200).any(), "the label is bright"
    assert np.median(bar) < 50, "on a dark background"


def test_annotate_accepts_views() -> None:
    wide = np.arange(400 * 400 * 3, dtype=np.uint32).astype(np.uint8).reshape(400, 400, 3)
    view = wide[::2, 1:351]
    view.flags.writeable = False
    assert np.array_equal(annotate(view, ["a"])[:200], view)


def test_annotate_enlarges_an_image_too_small_for_text() -> None:
    tiny = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    shown = annotate(tiny, ["seven"])
    assert shown.shape[1] == 320
    assert np.array_equal(shown[:320:40, ::40], tiny)


@pytest.mark.parametrize("line", ["", "x" * 1000, "Zürich ☃ 猫"])
def test_annotate_accepts_any_text(line: str) -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    margin = annotate(picture, [line])[240:, -4:]
    assert margin.max() < 50, "text ends before the edge"


def test_more_lines_make_a_higher_bar() -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    heights = [annotate(picture, ["line"] * count).shape[0] for count in (1, 2, 5)]
    assert heights == sorted(set(heights))


def test_preview_writes_the_newest_result(guess: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.png"
    sink = Preview(path)
    for number, colour in enumerate((10, 200)):
        sink.write(result(guess, number=number, colour=colour))
        assert not path.exists()
    sink.close()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    assert (pixels[:240] == 200).all()
    expected = annotate(
        np.full((240, 320, 3), 200, np.uint8), ["class 7  12.3%", "frame 1, 20 ms old, test://ball"]
    )
    assert np.array_equal(pixels, expected)
    assert [file.name for file in path.parent.iterdir()] == ["last.png"]


def test_preview_without_frames_writes_nothing(tmp_path: Path) -> None:
    Preview(tmp_path / "last.png").close()
    assert list(tmp_path.iterdir()) == []


def test_a_preview_that_cannot_be_written_keeps_the_old_file(
    guess: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.png"
    path.write_text("the last run's")
    sink = Preview(path)
    sink.write(result(guess))

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        sink.close()
    assert path.read_text() == "the last run's"
    assert [file.name for file in tmp_path.iterdir()] == ["last.png"]


def test_an_unwritable_preview_path_is_refused_by_the_constructor(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        Preview(tmp_path / "file" / "last.png")


def test_a_label_with_a_line_break_is_drawn_in_one_line() -> None:
    pixels = np.zeros((40, 320, 3), np.uint8)
    space, line_break = annotate(pixels, ["a b"]), annotate(pixels, ["a\nb"])
    assert np.array_equal(space, line_break)
