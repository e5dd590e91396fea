"""ViT-L/16 (304 M parameters) and ViT-H/14 (632 M), built as INT8 within 16 GB of memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

LIMIT_GB = 16
SHAPES = {
    "L16": {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096},
    "H14": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "intermediate_size": 5120,
        "patch_size": 14,
    },
}
MAKE = """
    import json, sys
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
    config = ViTConfig(num_labels=1000, num_attention_heads=16, **json.loads(sys.argv[2]))
    ViTForImageClassification(config).save_pretrained(sys.argv[1])
    ViTImageProcessorPil().save_pretrained(sys.argv[1])
"""
BUILD = """
    import resource, sys
    from pathlib import Path
    from edge.builder.pipeline import build
    from edge.builder.recipes import Recipe
    from edge.cli.console import Console
    folder, precision = Path(sys.argv[1]), sys.argv[2]
    build(Recipe(str(folder / "vit"), folder / "images", name=precision, gate=False,
                 precision=precision, engines=folder / "engines"), Console())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def free_gb():
    """Memory that a process can have, GB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6


@pytest.mark.parametrize("shape", SHAPES)
def test_builds_as_fp16_and_int8_within_16_gb(shape, tmp_path):
    if free_gb() < LIMIT_GB:
        pytest.skip(f"{free_gb():.0f} GB of memory are free, this may take {LIMIT_GB}")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(20):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / f"images/{number}.png")
    run("make", MAKE, tmp_path / "vit", json.dumps(SHAPES[shape]))
    for precision in ("fp16", "int8"):
        peak = float(run(precision, BUILD, tmp_path, precision).splitlines()[-1])
        print(f"{shape} {precision}: {peak:.1f} GB")
        assert peak < LIMIT_GB
        passport = json.loads((tmp_path / f"engines/{precision}/passport.json").read_text())
        assert passport["plan"] is not None
        assert passport["accuracy"]["portable"]["sqnr_db"] > 15


def run(what, script, *words):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, what
    return done.stdout
