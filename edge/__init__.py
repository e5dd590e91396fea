"""vit-edge: a Hugging Face ViT becomes a TensorRT engine you can trust.

`edge.load("engines/x")` opens a built engine; called with an image it gives a `Prediction`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from edge.engine.engine import Engine

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(engine: str | PathLike[str], backend: str = "auto", **options: Any) -> Engine:
    """Open the engine in directory `engine`; close it with `.close()` or use it in a `with`.

    backend: `auto`, `onnxruntime`, `onnxruntime-cuda`, `tensorrt` or `tensorrt-rtx`. Raises
    `edge.errors.EngineError` for a missing or damaged engine, or one made for another machine.
    """
    from edge.engine.engine import Engine

    return Engine.open(engine, backend=backend, **options)
