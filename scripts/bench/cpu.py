"""The speed of the CPU backend on a ViT-B/16, compared with transformers in one run.

    .venv/bin/python -m scripts.bench.cpu [--rounds 20] [--threads 2]

transformers' forward pass, the FP32 engine and the INT8 engine take turns on one image; figures are
medians of all rounds. Prints one JSON object. For the camera loop see scripts/bench/loop.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification
from transformers import ViTImageProcessorPil as Processor

from edge.builder.pipeline import Recipe, build
from edge.cli.console import Console
from edge.engine.engine import Engine
from edge.engine.timing import interleave

IMAGES = 32


def make_inputs(folder: Path) -> None:
    """Write a ViT-B/16 with random weights, and images."""
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


def build_engines(folder: Path, *precisions: str) -> Path:
    """Build engines of the checkpoint in `folder`, named by precision; returns their folder."""
    engines, console = folder / "engines", Console()
    for precision in precisions:
        recipe = Recipe(
            str(folder / "vit-b16"),
            folder / "images",
            precision=precision,
            name=precision,
            engines=engines,
            gate=False,
        )
        build(recipe, console)
    return engines


def measure(folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    checkpoint, engines = str(folder / "vit-b16"), build_engines(folder, "fp32", "int8")
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)

    def transformers_forward() -> None:
        with torch.inference_mode():
            model(pixel_values=torch.from_numpy(image))

    with (
        Engine.open(engines / "fp32", "onnxruntime", threads) as fp32,
        Engine.open(engines / "int8", "onnxruntime", threads) as int8,
    ):
        taken = interleave(
            {
                "transformers": transformers_forward,
                "fp32": lambda: fp32.infer(image),
                "int8": lambda: int8.infer(image),
            },
            rounds,
        )
        ms = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "threads": threads,
        "rounds": rounds,
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "ms_min": {name: round(min(times), 2) for name, times in taken.items()},
        "fp32_speed_over_transformers": round(ms["transformers"] / ms["fp32"], 3),
        "int8_speed_over_fp32": round(ms["fp32"] / ms["int8"], 3),
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
