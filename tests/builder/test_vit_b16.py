"""A ViT-B/16 with random weights through every stage, within its limits of time and memory."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SECONDS, PEAK_GB = 150, 8


def test_builds_as_int8_through_to_a_plan(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(32):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / f"images/{number}.png")
    make = """
        import sys
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
        ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(sys.argv[1])
        ViTImageProcessorPil().save_pretrained(sys.argv[1])
    """
    checkpoint = tmp_path / "vit-b16"
    subprocess.run([sys.executable, "-c", textwrap.dedent(make), checkpoint], check=True)
    build = """
        import json, resource, sys, time
        from pathlib import Path
        from edge.builder.pipeline import build
        from edge.builder.recipes import Recipe
        from edge.cli.console import Console
        start = time.monotonic()
        folder = Path(sys.argv[1])
        built = build(Recipe(str(folder / "vit-b16"), folder / "images", name="b16", gate=False,
                             engines=folder / "engines"), Console())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"seconds": time.monotonic() - start, "peak_gb": peak}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(build), tmp_path],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["peak_gb"] < PEAK_GB
    passport = json.loads((tmp_path / "engines/b16/passport.json").read_text())
    assert passport["plan"]["backend"] in ("tensorrt-rtx", "tensorrt")
    # The Linears are a quarter of their FP32 size: 86 M parameters, most of them theirs.
    assert passport["files"]["model.onnx"]["bytes"] < 100e6
    assert passport["accuracy"]["portable"]["sqnr_db"] > 15
