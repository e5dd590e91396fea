"""vit-edge: build a verified TensorRT engine from a Hugging Face ViT, and run it.

`model = edge.load("engines/x")` opens a built engine; `model(image)` returns a `Prediction`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from edge.engine.engine import Engine

# Nothing phones home. Official builds of onnxruntime send events to Microsoft, and keep a device
# id and a database under ~/.cache, unless this is set before they are imported; 1.29 used the
# second name. See docs/privacy.md.
for _name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(engine: str | PathLike[str], backend: str = "auto", **options: Any) -> Engine:
    """Open the engine in the folder `engine`. Close it with `.close()`, or use a `with` block.

    backend: `auto`, `onnxruntime`, `onnxruntime-cuda`, `tensorrt` or `tensorrt-rtx`. options: those
    of `edge.engine.engine.Engine.open`. Raises `edge.errors.EngineError` if the engine is missing
    or damaged, or was compiled for another machine.
    """
    from edge.engine.engine import Engine

    return Engine.open(engine, backend=backend, **options)
