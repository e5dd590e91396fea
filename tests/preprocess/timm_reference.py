"""What timm's own evaluation transform makes of pictures: the tensors that ours are compared with.

timm and torchvision lie in a folder of their own, since transformers would use a torchvision that
it finds, and a torch of another build than torchvision's would keep it from being imported.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parents[2]
PINNED = {"timm": "1.0.31", "torchvision": "0.28.0"}  # torchvision's for the torch that is pinned
FOLDER = ROOT / "build" / "-".join(part for pair in PINNED.items() for part in pair)

INCEPTION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
WIDE = {"input_size": (3, 192, 256)}
LARGE = {"input_size": (3, 384, 384), "crop_pct": 1.0}

# Every value of every key in some of them. What is not named has timm's default.
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic", **INCEPTION},
    "deit": {"crop_pct": 0.875, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "defaults": {"input_size": (3, 224, 224)},
    "clip": {"crop_pct": 1.0, **CLIP},
    "odd": {"crop_pct": 0.95, "interpolation": "bilinear"},
    "large": {**LARGE, **INCEPTION},
    "large-squashed": {**LARGE, "crop_mode": "squash", **CLIP},
    "squashed": {"crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bilinear"},
    "bordered": {"crop_pct": 1.0, "crop_mode": "border", **CLIP},
    "bordered-cropped": {"crop_pct": 0.875, "crop_mode": "border", "interpolation": "bilinear"},
    "wide": {**WIDE, "crop_pct": 0.9},
    "wide-whole": {**WIDE, "crop_pct": 1.0, "interpolation": "lanczos", **INCEPTION},
    "wide-squashed": {**WIDE, "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "nearest"},
    "wide-bordered": {**WIDE, "crop_pct": 0.95, "crop_mode": "border", **INCEPTION},
    "lanczos": {"interpolation": "lanczos"},
    "nearest": {"crop_pct": 0.9, "interpolation": "nearest"},
}

# (height, width)
SIZES = {
    "720p": (720, 1280),
    "portrait": (640, 480),
    "3:1": (300, 900),
    "1:3": (801, 267),
    "tiny": (5, 7),
    "row": (1, 24),
    "column": (24, 1),
    "pixel": (1, 1),
    "target": (224, 224),
    "wide target": (192, 256),
    "before the crop": (256, 256),
    "one side fits": (256, 341),
    # Half pixels: where a crop begins, and (in the last four) in the resized size, up and down.
    "odd": (427, 639),
    "odder": (511, 513),
    "cover down": (426, 601),
    "cover up": (426, 603),
    "contain down": (448, 301),
    "contain up": (448, 303),
}


def pictures() -> dict[str, np.ndarray]:
    """Crops of scikit-learn's photos, set beside each other: uint8 RGB [H, W, 3]."""
    china, flower = load_sample_images().images
    wall = np.block([[[china], [flower]], [[flower], [china]]])
    return {
        name: np.ascontiguousarray(wall[:height, :width]) for name, (height, width) in SIZES.items()
    }


def expected(folder: Path) -> dict[str, np.ndarray]:
    """`CONFIG/PICTURE` -> float32 [3, H, W], as timm makes it, in a process of its own."""
    install()
    out = folder / "timm.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.preprocess.timm_reference", out],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(FOLDER), str(ROOT)))},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"timm cannot be asked:\n{done.stderr}")
    with np.load(out) as made:
        return dict(made)


def install() -> None:
    """Put timm and torchvision into `FOLDER`, once. Raises `RuntimeError` when it cannot be."""
    FOLDER.parent.mkdir(exist_ok=True)
    with FOLDER.with_name(f"{FOLDER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if FOLDER.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            wanted = [f"{name}=={version}" for name, version in PINNED.items()]
            done = subprocess.run(
                [*pip, "--no-deps", "--only-binary=:all:", "--target", f"{scratch}/made", *wanted],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(
                    f"{' and '.join(wanted)}, which a test needs once, cannot be installed:\n"
                    f"{done.stderr}"
                )
            Path(scratch, "made").rename(FOLDER)


def ask_timm() -> Iterator[tuple[str, np.ndarray]]:
    import torch

    (package,) = importlib.util.find_spec("torchvision").submodule_search_locations
    try:
        torch.ops.load_library(f"{package}/_C.so")
    except OSError:
        # It is of another build than torch. Of the operators in it, importing torchvision asks for
        # two; resizing a PIL image calls none.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    made = {name: Image.fromarray(pixels) for name, pixels in pictures().items()}
    for config_name, config in CONFIGS.items():
        transform = create_transform(
            **resolve_data_config(pretrained_cfg=config), is_training=False
        )
        for name, picture in made.items():
            yield f"{config_name}/{name}", transform(picture).numpy()


if __name__ == "__main__":
    np.savez(sys.argv[1], **dict(ask_timm()))
