"""What the tests share: checkpoints that transformers saved, pictures, and a built engine."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# For torch and numpy, here and in what the tests start. Tests run side by side already, and threads
# of OpenMP that wait for each other take a core to do so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

# Fixtures of every room that handles streams.
from tests.edge_process import run_edge
from tests.streams import (  # noqa: F401
    _once,
    engine,
    guess,
    media,
    number_in,
    numbered,
    paint,
    rtsp,
    small_disk,
)

# A board and a machine that is checked have no hypothesis: the tests for a GPU do without.
with suppress(ImportError):
    from hypothesis import settings

    # An example takes as long as the machine's other work leaves it. `make test` tries the same
    # examples each time, so that a change is what turns it red; `make test-slow` tries new ones.
    settings.register_profile("same", deadline=None, derandomize=True)
    settings.register_profile("new", deadline=None, max_examples=1000, print_blob=True)
    settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("cat", "dog", "fox", "owl", "bee")

# Where there is a TensorRT-RTX, setup installs it, and without it these tests fail.
needs_rtx = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT-RTX is for x86-64 only"
)


@pytest.fixture(autouse=True, scope="module")
def frozen_modules() -> None:
    """Keep what earlier modules imported, such as torch, out of every garbage collection."""
    gc.freeze()


# Rooms with the longest files come first, so that no process ends long before another.
LONGEST = ("builder", "cli", "engine", "preprocess", "hardware", "scripts", "gpu")
# Rooms, files and fixtures of tests that take seconds each: left out of `make test-fast`.
HEAVY = ("builder", "cli", "scripts", "hardware", "gpu", "trt_api", "chaos")
HEAVY_FILES = (
    *("test_audit.py", "test_come_and_go.py", "test_command.py", "test_fairness.py"),
    *("test_kernel.py", "test_launch.py", "test_mqtt.py", "test_orientation.py"),
    *("test_recording.py", "test_rtsp.py", "test_secrets.py", "test_silence.py"),
    "test_video_files.py",
)
HEAVY_FIXTURES = {"checkpoint", "engines", "built_engine", "fp32_engine", "fp32_graph", "warm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is heavy, and begin with the longest files."""

    def room(item: pytest.Item) -> str:
        return item.path.relative_to(ROOT / "tests").parts[0]

    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if room(item) in HEAVY or item.path.name in HEAVY_FILES or HEAVY_FIXTURES & fixtures:
            item.add_marker(pytest.mark.heavy)
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(room(item), len(rank)))


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.texts: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))

    def done(self, text: str) -> None:
        self.texts.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def save_checkpoint(folder: Path, **changes: object) -> Path:
    """A tiny ViT with random weights, large enough that its classes differ."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(1)
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.2,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
        **changes,
    }
    config = ViTConfig(**settings)
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": config.image_size, "width": config.image_size}
    ViTImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def add_outliers(folder: Path, factor: float = 1000.0) -> Path:
    """Give a checkpoint the outlier channels of large ViTs; what it computes stays the same.

    A LayerNorm makes two channels `factor` times larger, the Linears that read it undo that. One
    INT8 range then serves both them and all others, to which it leaves a few levels.
    """
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if "layernorm_before" in name or "layernorm_after" in name:
            weight[:2] *= factor
        elif name.endswith(
            ("query.weight", "key.weight", "value.weight", "intermediate.dense.weight")
        ):
            weight[:, :2] /= factor
    save_file(weights, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint folder; copy it before changing it."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-vit")


def draw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth random picture, RGB uint8 [height, width, 3]."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 pictures, some of them in folders named like classes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        target = folder / LABELS[number % len(LABELS)]
        target.mkdir(exist_ok=True)
        Image.fromarray(draw(rng, 40 + number, 60)).save(target / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, pictures: Path) -> Path:
    """A folder with the tiny checkpoint built as `tiny-int8`; copy an engine before changing it."""
    from edge.builder.pipeline import build
    from edge.builder.recipes import Recipe

    folder = tmp_path_factory.mktemp("engines")
    recipe = Recipe(
        str(checkpoint), pictures, name="tiny-int8", engines=folder, min_agreement=50, max_batch=4
    )
    build(recipe, Recorder())
    return folder


@pytest.fixture(scope="session")
def fp32_graph(engines: Path) -> Path:
    """The tiny checkpoint's exported and simplified graph, as a file: do not change it."""
    (path,) = (engines / ".cache").glob("simplified-*.onnx")
    return path


@pytest.fixture
def warm(engines: Path, tmp_path: Path) -> Path:
    """A folder without engines that has the cache of `engines`: what is built there of the tiny
    checkpoint is not exported again, which takes torch and most of a build's time.
    """
    folder = tmp_path / "engines"
    shutil.copytree(engines / ".cache", folder / ".cache")
    return folder


@pytest.fixture(scope="session")
def built_engine(engines: Path) -> Path:
    return engines / "tiny-int8"


@pytest.fixture(scope="session")
def fp32_engine(engines: Path, checkpoint: Path, pictures: Path) -> Path:
    """The tiny checkpoint once more, built as `tiny-fp32`: what its INT8 engine is held against."""
    from edge.builder.pipeline import build
    from edge.builder.recipes import Recipe

    recipe = Recipe(str(checkpoint), pictures, precision="fp32", name="tiny-fp32", engines=engines)
    build(recipe, Recorder())
    return engines / "tiny-fp32"


@pytest.fixture
def edge_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real `edge` command: edge_command("inspect", path, cwd=...)."""

    def call(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_edge([str(word) for word in words], **options)

    return call
