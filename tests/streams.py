"""Fixtures of the run: a video that shows its frame numbers, an RTSP server, an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.engine.cpu_path import CpuPath
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import Surface
from edge.sources.feeds import Feed

FRAMES = 45  # at 30 a second
ROOT = Path(__file__).parents[1]


def _paint(number: int) -> np.ndarray:
    """A 320x240 picture of `number`: eight blocks, white for each bit that is set."""
    bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8).reshape(2, 4) * 255
    return np.repeat(np.kron(bits, np.ones((120, 80), np.uint8))[..., None], 3, axis=2)


@pytest.fixture(scope="session")
def paint() -> Callable[[int], np.ndarray]:
    """Draws a number, RGB uint8 [240, 320, 3]."""
    return _paint


def _number_in(pixels: np.ndarray) -> int:
    bright = pixels[60:240:120, 40:320:80].mean(axis=2).reshape(-1) > 128
    return int((bright << np.arange(8)).sum())


@pytest.fixture(scope="session")
def number_in() -> Callable[[np.ndarray], int]:
    """Reads the number that a picture by `paint` shows; compression does not change it."""
    return _number_in


def launch(description: str, **env: str) -> None:
    """Run a pipeline to its end, as gst-launch-1.0 does."""
    subprocess.run(["gst-launch-1.0", "-q", *description.split()], check=True, env=os.environ | env)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """numbered.mp4 (frames in an order of their own: B-frames), sound.wav, text.mp4, empty.mp4."""
    folder = tmp_path_factory.mktemp("media")
    raw = folder / "raw"
    raw.write_bytes(b"".join(_paint(number).tobytes() for number in range(FRAMES)))
    launch(
        f"filesrc location={raw} ! rawvideoparse format=rgb width=320 height=240 framerate=30/1 ! "
        "videoconvert ! video/x-raw,format=I420 ! x264enc bframes=2 key-int-max=15 ! mp4mux ! "
        f"filesink location={folder}/numbered.mp4"
    )
    raw.unlink()
    launch(f"audiotestsrc num-buffers=50 ! wavenc ! filesink location={folder}/sound.wav")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "empty.mp4").touch()
    return folder


@pytest.fixture(scope="session")
def numbered(media: Path) -> Path:
    """A video of `FRAMES` frames that show their own numbers."""
    return media / "numbered.mp4"


@pytest.fixture
def rtsp(numbered: Path) -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """Serve the numbered video, or another: rtsp(*options) -> its URL and the server's process."""
    servers: list[subprocess.Popen[str]] = []

    def serve(*options: str, video: Path = numbered) -> tuple[str, subprocess.Popen[str]]:
        script = ROOT / "scripts" / "rtsp_server.py"
        command = [sys.executable, str(script), str(video), "--port", "0", *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("rtsp://127.0.0.1:"), "the server did not start"
        return url, server

    yield serve
    for server in servers:
        server.kill()
        server.communicate()


class Guess:
    """A prediction with one likely class among 256."""

    def __init__(self, class_id: int, confidence: float = 0.75):
        self.class_id, self.confidence = class_id, confidence

    def top(self, k: int) -> list[tuple[int, str, float]]:
        others = [(i, f"class {i}", 0.001) for i in range(256) if i != self.class_id]
        return [(self.class_id, f"class {self.class_id}", self.confidence), *others][:k]


class NumberReader:
    """An engine that reads the number in a picture and answers with that class."""

    backend = "fake"
    frame_path = "system memory"
    input_shape = (3, 2, 2)

    def __init__(self) -> None:
        # Looked up at each call, so that a test may put its own in their place.
        self._path = CpuPath(
            lambda *given: self.preprocess(*given), lambda batch: self.infer(batch), (3, 2, 2)
        )
        self.depth, self.stages_ms = self._path.depth, self._path.stages_ms
        self.batch = self._path.batch
        self.slot, self.start, self.finish = self._path.slot, self._path.start, self._path.finish
        self.network_input = self._path.network_input

    def preprocess(self, picture: Surface, out: np.ndarray) -> None:
        out[:] = _number_in(to_rgb(picture))

    def infer(self, batch: np.ndarray) -> np.ndarray:
        assert batch.dtype == np.float32
        assert batch.shape == (len(batch), *self.input_shape)
        logits = np.zeros((len(batch), 256), np.float32)
        logits[np.arange(len(batch)), batch[:, 0, 0, 0].astype(int)] = 9
        return logits

    def predict(self, logits: np.ndarray) -> Guess:
        return Guess(int(logits.argmax()))


def once(source: Any) -> Feed:
    """A source that is there already, and is not opened anew."""
    return Feed(source.name, lambda first, wait: source, live=source.live, reconnect=False)


@pytest.fixture(scope="session", name="once")
def _once() -> Callable[[Any], Feed]:
    return once


@pytest.fixture
def engine() -> NumberReader:
    return NumberReader()


@pytest.fixture
def guess() -> type[Guess]:
    return Guess


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, to be filled. Mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
