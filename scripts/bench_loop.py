"""Measure, in one run, what the camera loop costs beside the bare engine and beside a plain loop.

    .venv/bin/python scripts/bench_loop.py [--turns 5] [--threads 2] [--folder DIR] [--out FILE]

ViT-B/16 (random weights) INT8 on the CPU backend. In each turn, one after the other:

    bare          the engine alone, on one picture
    1x, 4x        the loop on one and on four H.264 films, every frame labelled
    1, 4 live     the loop on cameras of 30 fps, the newest frame first: ages of its results
    plain         the loop people write: cv2.VideoCapture, transformers' image processor and model

`share` is the loop's rate over the mean of the bare rates before and after it, `fairness` the
frames of the source that had fewest over those of the one that had most; medians of all turns.
`plain` runs the same network in FP32 by torch, since it has no other.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from bench_cpu import build_engines, make_inputs
from figures import commit, machine, put, versions
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from edge.run import loop
from edge.run.engine import Engine
from edge.run.sinks import JsonLines
from edge.run.sources.cameras import Camera, named
from edge.run.sources.opening import feed

FRAMES = 120
SIZES = ("640x360", "1280x720")


def make_films(folder: Path) -> dict[str, str]:
    """Films of a moving test pattern, by size."""
    for size in SIZES:
        width, height = size.split("x")
        film = (
            f"videotestsrc num-buffers={FRAMES} pattern=ball "
            f"! video/x-raw,format=I420,width={width},height={height},framerate=30/1 ! x264enc "
            f"speed-preset=veryfast ! h264parse ! mp4mux ! filesink location={folder}/{size}.mp4"
        )
        subprocess.run(["gst-launch-1.0", "-q", *film.split()], check=True)
    return {size: str(folder / f"{size}.mp4") for size in SIZES}


def bare(engine: Engine) -> float:
    """Pictures per second of the engine alone."""
    batch = np.zeros((1, *engine.input_shape), np.float32)
    start = time.perf_counter()
    for _ in range(FRAMES // 2):
        engine.infer(batch)
    return FRAMES // 2 / (time.perf_counter() - start)


def looped(engine: Engine, camera: Camera, sources: int) -> loop.Summary:
    """The whole loop, down to JSON lines that go to a file."""
    feeds = [feed(camera) for camera in named([camera] * sources)]
    with tempfile.TemporaryFile("w") as lines:
        return loop.run(engine, feeds, [JsonLines(lines)], frames=FRAMES)


def plain(model: Any, processor: Any, film: str) -> float:
    """Frames per second of the loop that people write."""
    capture, labels = cv2.VideoCapture(film), []
    start = time.perf_counter()
    while len(labels) < FRAMES // 4:
        _, frame = capture.read()
        inputs = processor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), return_tensors="pt")
        with torch.inference_mode():
            labels.append(model.config.id2label[model(**inputs).logits.argmax(-1).item()])
    return len(labels) / (time.perf_counter() - start)


def turn(engine: Engine, model: Any, processor: Any, films: dict[str, str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for size, film in films.items():
        for sources in (1, 4):
            before = bare(engine)
            run = looped(engine, Camera(film), sources)
            after = bare(engine)
            frames = [numbers["frames"] for numbers in run.sources.values()]
            figures[f"{sources}x {size}"] = {
                "bare_fps": (before + after) / 2,
                "fps": run.fps,
                "share": 2 * run.fps / (before + after),
                "fairness": min(frames) / max(frames),
            }
            live = looped(engine, replace(Camera(film), realtime=True, loop=True), sources)
            figures[f"{sources} live {size}"] = {
                "fps": live.fps,
                **{f"age_{name}": ms for name, ms in live.age_ms.items()},
                "p99_over_p50": live.age_ms["p99"] / live.age_ms["p50"],
            }
        figures[f"plain {size}"] = {"fps": plain(model, processor, film)}
    return figures


def middle(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over all turns."""
    return {
        name: {
            key: float(f"{statistics.median(turn[name][key] for turn in turns):.4g}")
            for key in turns[0][name]
        }
        for name in turns[0]
    }


def measure(folder: Path, turns: int, threads: int) -> dict[str, Any]:
    if not (folder / "engines/int8/passport.json").exists():
        make_inputs(folder)
        build_engines(folder, "int8")
    films = make_films(folder)
    torch.set_num_threads(threads)
    model = AutoModelForImageClassification.from_pretrained(folder / "vit-b16").eval()
    processor = ViTImageProcessorPil.from_pretrained(folder / "vit-b16")
    with Engine.open(folder / "engines/int8", "onnxruntime", threads) as engine:
        taken = [turn(engine, model, processor, films) for _ in range(turns)]
    return {
        "threads": threads,
        "turns": turns,
        "machine": machine(),
        "versions": versions("onnxruntime", "opencv-python-headless", "torch", "transformers"),
        "commit": commit(),
        "median": middle(taken),
        "shares": {
            name: [round(turn[name]["share"], 3) for turn in taken]
            for name in taken[0]
            if "share" in taken[0][name]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keep the engine here, for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, arguments.turns, arguments.threads)
    put(figures, arguments.out)


if __name__ == "__main__":
    main()
