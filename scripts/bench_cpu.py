"""Measure, side by side in one run, what the CPU backend is worth on a ViT-B/16 shape.

    .venv/bin/python scripts/bench_cpu.py [--rounds 20] [--threads 2]

transformers' forward pass, our FP32 engine and our INT8 engine take turns on one picture (median
of all rounds); then the camera loop runs a 1280x720 H.264 film through the INT8 engine, every
frame, between two measurements of the bare engine. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification
from transformers import ViTImageProcessorPil as Processor

from edge.bench import interleave
from edge.build.pipeline import Recipe, build
from edge.console import Console
from edge.run import loop
from edge.run.camera import feed
from edge.run.cameras import Camera
from edge.run.engine import Engine
from edge.run.sinks import Sink

IMAGES, FRAMES, TURNS = 32, 120, 5


def make_inputs(folder: Path) -> None:
    """A ViT-B/16 with random weights, pictures, and a film of a moving test pattern."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(folder / "vit-b16")
    Processor().save_pretrained(folder / "vit-b16")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(
            folder / f"images/{number:02d}.png"
        )
    film = (
        f"videotestsrc num-buffers={FRAMES} pattern=ball "
        "! video/x-raw,format=I420,width=1280,height=720,framerate=30/1 ! x264enc "
        f"speed-preset=veryfast ! h264parse ! mp4mux ! filesink location={folder}/film.mp4"
    )
    subprocess.run(["gst-launch-1.0", "-q", *film.split()], check=True)


def bare_rate(engine: Engine, rounds: int) -> float:
    """Pictures per second of the engine alone."""
    batch = np.zeros((1, *engine.input_shape), np.float32)
    start = time.perf_counter()
    for _ in range(rounds):
        engine.infer(batch)
    return rounds / (time.perf_counter() - start)


def loop_against_bare(engine: Engine, film: str) -> dict[str, float]:
    """Frames per second of the loop, between two measurements of the engine alone."""
    before = bare_rate(engine, FRAMES // 2)
    looped = loop.run(engine, [feed(Camera(film))], [Sink()]).fps
    after = bare_rate(engine, FRAMES // 2)
    figures = {"bare": (before + after) / 2, "loop": looped, "share": 2 * looped / (before + after)}
    return {name: round(value, 3) for name, value in figures.items()}


def measure(folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    console = Console()
    torch.set_num_threads(threads)
    checkpoint, engines = str(folder / "vit-b16"), folder / "engines"
    for precision in ("fp32", "int8"):
        recipe = Recipe(checkpoint, folder / "images", precision=precision, name=precision)
        build(Recipe(**{**recipe.__dict__, "engines": engines, "gate": False}), console)
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    picture = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)

    def transformers_forward() -> None:
        with torch.inference_mode():
            model(pixel_values=torch.from_numpy(picture))

    with (
        Engine.open(engines / "fp32", "onnxruntime", threads) as fp32,
        Engine.open(engines / "int8", "onnxruntime", threads) as int8,
    ):
        taken = interleave(
            {
                "transformers": transformers_forward,
                "fp32": lambda: fp32.infer(picture),
                "int8": lambda: int8.infer(picture),
            },
            rounds,
        )
        ms = {name: statistics.median(times) for name, times in taken.items()}
        turns = [loop_against_bare(int8, (folder / "film.mp4").as_uri()) for _ in range(TURNS)]
    return {
        "threads": threads,
        "rounds": rounds,
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "ms_min": {name: round(min(times), 2) for name, times in taken.items()},
        "fp32_speed_over_transformers": round(ms["transformers"] / ms["fp32"], 3),
        "int8_speed_over_fp32": round(ms["fp32"] / ms["int8"], 3),
        "loop_share_of_bare": round(statistics.median(turn["share"] for turn in turns), 3),
        "loop_turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        make_inputs(Path(scratch))
        print(json.dumps(measure(Path(scratch), arguments.rounds, arguments.threads), indent=1))


if __name__ == "__main__":
    main()
