"""Which runners accept a network on this GPU, as JSON: `python -m scripts.gpu.accepts ENGINE`.

TensorRT-RTX supports some compute capabilities only; its error for others is kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edge.builder.plan import compile_engine
from edge.engine import onnxruntime_cuda
from edge.engine.engine import Engine
from edge.gpu import nvidia
from tests.conftest import Recorder
from tests.hardware.support import runners


def accepts(backend: str, engine: Path) -> dict[str, Any]:
    """Whether `backend` compiles, loads and runs the engine here, and its error if not."""
    if backend not in runners():
        return {"installed": False}
    found: dict[str, Any] = {"installed": True, "accepted": False, "step": "version"}
    try:
        found["version"] = (
            onnxruntime_cuda.check()
            if backend == onnxruntime_cuda.NAME
            else nvidia.version(backend)
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = shutil.copytree(engine, Path(scratch) / "engine")
            if backend in nvidia.BACKENDS:
                found["step"] = "compile"
                compile_engine(folder, backend, Recorder())
            found["step"] = "load"
            with Engine.open(folder, backend) as opened:
                found["step"] = "run"
                opened.infer(np.zeros((1, *opened.input_shape), np.float32))
        found["accepted"] = True
    except Exception as error:
        found["says"] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    gpu = nvidia.gpu()
    names = (*nvidia.BACKENDS, onnxruntime_cuda.NAME)
    found: dict[str, Any] = {name: accepts(name, Path(sys.argv[1])) for name in names}
    found["gpu"] = gpu.name if gpu else None
    found["compute_capability"] = gpu.compute_capability if gpu else None
    print(json.dumps(found))
    sys.exit(
        0 if any(row.get("accepted") for row in found.values() if isinstance(row, dict)) else 1
    )


if __name__ == "__main__":
    main()
