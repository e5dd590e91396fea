"""The cost of the camera loop, compared with the bare engine and with a plain loop in one run.

    .venv/bin/python -m scripts.bench.loop [--turns 5] [--threads 2] [--folder DIR] [--out FILE]

ViT-B/16 (random weights) INT8 on the CPU backend. In each turn, one after the other:

    1x, 4x        the loop on one and on four H.264 videos, every frame labelled; every few seconds
                  of the same run it takes turns with the bare engine on one image
    1, 4 live     the loop on cameras of 30 fps, newest frame first: ages of its results
    plain         the usual loop: cv2.VideoCapture, transformers' image processor and model

`share` is the median time of the bare engine divided by the median time from one label to the next,
over all turns. `share_of_turns` has it for each turn. `share_of_means` uses means, which include
the load of other programs. `fairness` is the number of frames of the source with the fewest divided
by that of the source with the most. All other figures are medians of all turns. `plain` runs the
same network in FP32 with torch, which has no INT8 one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from edge.engine.engine import Engine
from edge.outputs.json_lines import JsonLines
from edge.run import loop
from edge.run.interfaces import Result, Sink
from edge.sources.camera import Camera, with_unique_names
from edge.sources.opening import feed
from scripts.bench.cpu import build_engines, make_inputs
from scripts.bench.figures import commit, machine, put, versions

FRAMES = 120
SIZES = ("640x360", "1280x720")
CYCLES = 5  # of the bare engine and the loop, in a run
BARE, LOOP = 15, 25  # images that are timed in each cycle
AHEAD = 10  # frames that a source, its decoder and its reader can have ready while the loop waits


def make_videos(folder: Path) -> dict[str, str]:
    """Write videos of a moving test pattern; returns their paths by size."""
    for size in SIZES:
        width, height = size.split("x")
        pipeline = (
            f"videotestsrc num-buffers={2 * FRAMES} pattern=ball "
            f"! video/x-raw,format=I420,width={width},height={height},framerate=30/1 ! x264enc "
            f"speed-preset=veryfast ! h264parse ! mp4mux ! filesink location={folder}/{size}.mp4"
        )
        subprocess.run(["gst-launch-1.0", "-q", *pipeline.split()], check=True)
    return {size: str(folder / f"{size}.mp4") for size in SIZES}


class Beside(Sink):
    """Times the loop and, in turns with it, the bare engine; the loop waits meanwhile.

    While the bare engine runs, the sources prepare frames ahead. The first images of the bare
    engine and the results of those frames are not timed.
    """

    def __init__(self, engine: Engine, sources: int):
        self._batch = np.zeros((1, *engine.input_shape), np.float32)
        self._engine, self._ahead = engine, AHEAD * sources
        self._results, self._latest = 0, 0.0
        self.bare: list[float] = []  # seconds for each image
        self.loop: list[float] = []  # seconds from each result to the next
        self.frames = CYCLES * (self._ahead + LOOP)

    def write(self, result: Result) -> None:
        now = time.perf_counter()
        within = self._results % (self._ahead + LOOP)
        self._results += 1
        if within >= self._ahead:
            self.loop.append(now - self._latest)
        if within == self._ahead + LOOP - 1:
            for number in range(AHEAD // 2 + BARE):
                began = time.perf_counter()
                self._engine.infer(self._batch)
                if number >= AHEAD // 2:
                    self.bare.append(time.perf_counter() - began)
        self._latest = time.perf_counter()


def looped(camera: Camera, engine: Engine, sources: int, frames: int, *more: Sink) -> loop.Summary:
    """The complete loop, with JSON lines to a file."""
    feeds = [feed(camera) for camera in with_unique_names([camera] * sources)]
    with tempfile.TemporaryFile("w") as lines:
        return loop.run(engine, feeds, [JsonLines(lines), *more], frames=frames)


def plain(model: Any, processor: Any, video: str) -> float:
    """Frames per second of the usual loop."""
    capture, labels = cv2.VideoCapture(video), []
    start = time.perf_counter()
    while len(labels) < FRAMES // 4:
        _, frame = capture.read()
        inputs = processor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), return_tensors="pt")
        with torch.inference_mode():
            labels.append(model.config.id2label[model(**inputs).logits.argmax(-1).item()])
    return len(labels) / (time.perf_counter() - start)


def turn(engine: Engine, model: Any, processor: Any, videos: dict[str, str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for size, video in videos.items():
        for sources in (1, 4):
            beside = Beside(engine, sources)
            run = looped(Camera(video), engine, sources, beside.frames, beside)
            frames = [numbers["frames"] for numbers in run.sources.values()]
            figures[f"{sources}x {size}"] = {
                "fairness": min(frames) / max(frames),
                "bare": beside.bare,
                "loop": beside.loop,
            }
            camera = Camera(video, realtime=True, loop=True)
            live = looped(camera, engine, sources, FRAMES)
            figures[f"{sources} live {size}"] = {
                "fps": live.fps,
                **{f"age_{name}": ms for name, ms in live.age_ms.items()},
                "p99_over_p50": live.age_ms["p99"] / live.age_ms["p50"],
            }
        figures[f"plain {size}"] = {"fps": plain(model, processor, video)}
    return figures


def middle(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over all turns; for times the medians of all, and their ratios."""
    found: dict[str, Any] = {}
    for name, first in turns[0].items():
        found[name] = {
            key: float(f"{statistics.median(turn[name][key] for turn in turns):.4g}")
            for key in first
            if key not in ("bare", "loop")
        }
        if "loop" in first:
            pairs = [(turn[name]["bare"], turn[name]["loop"]) for turn in turns]
            bare, loops = (
                [one for part in parts for one in part] for parts in zip(*pairs, strict=True)
            )
            found[name] |= {
                "bare_ms": round(statistics.median(bare) * 1e3, 2),
                "loop_ms": round(statistics.median(loops) * 1e3, 2),
                "share": ratio(statistics.median, bare, loops),
                "share_of_means": ratio(statistics.mean, bare, loops),
                "share_of_turns": [ratio(statistics.median, *pair) for pair in pairs],
            }
    return found


def ratio(of: Callable[[list[float]], float], bare: list[float], loops: list[float]) -> float:
    return round(of(bare) / of(loops), 3)


def measure(folder: Path, turns: int, threads: int) -> dict[str, Any]:
    if not (folder / "engines/int8/passport.json").exists():
        make_inputs(folder)
        build_engines(folder, "int8")
    videos = make_videos(folder)
    torch.set_num_threads(threads)
    model = AutoModelForImageClassification.from_pretrained(folder / "vit-b16").eval()
    processor = ViTImageProcessorPil.from_pretrained(folder / "vit-b16")
    with Engine.open(folder / "engines/int8", "onnxruntime", threads) as engine:
        taken = [turn(engine, model, processor, videos) for _ in range(turns)]
    return {
        "threads": threads,
        "turns": turns,
        "machine": machine(),
        "versions": versions("onnxruntime", "opencv-python-headless", "torch", "transformers"),
        "commit": commit(),
        "median": middle(taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keep the engine here for the next run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, arguments.turns, arguments.threads)
    put(figures, arguments.out)


if __name__ == "__main__":
    main()
