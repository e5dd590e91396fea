"""What the tests on a GPU share: what to do without one, and the engine that they run."""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edge.engine import onnxruntime_cuda
from edge.errors import EdgeError
from edge.gpu import nvidia

ROOT = Path(__file__).resolve().parents[2]


def lacking(what: str, required: bool = True) -> NoReturn:
    """Skip for what is not here; where a GPU is required, a `required` thing's absence fails."""
    if required and os.environ.get("EDGE_REQUIRE_GPU") == "1":
        pytest.fail(f"needs {what}", pytrace=False)
    pytest.skip(f"needs {what}")


def need_gpu() -> None:
    if nvidia.gpu() is None:
        lacking("an NVIDIA GPU")
    if importlib.util.find_spec("pycuda") is None:
        lacking("PyCUDA")


def runners() -> list[str]:
    """The backends for a GPU that are installed here."""
    found = nvidia.installed()
    with suppress(EdgeError):
        onnxruntime_cuda.check()
        found.append(onnxruntime_cuda.NAME)
    return found


def engine(request: pytest.FixtureRequest) -> Path:
    """The tiny engine: EDGE_GPU_ENGINE, or built here; without torch, one that a PC has built."""
    if given := os.environ.get("EDGE_GPU_ENGINE"):
        return Path(given)
    if importlib.util.find_spec("torch"):
        built: Any = request.getfixturevalue("built_engine")
        return Path(built)
    lacking("EDGE_GPU_ENGINE, the folder of an engine made by scripts/gpu/models.py")
