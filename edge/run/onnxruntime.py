"""The onnxruntime backend: an engine's portable graph on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.session import Session

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """Runs `model.onnx` on the CPU; one thread at a time."""

    name = "onnxruntime"

    def __init__(self, graph: Path, threads: int | None = None, *, fp8: bool = False):
        self._session = Session(graph, threads, fuse_qdq=not fp8)

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Pictures float32 [N, 3, H, W] -> logits float32 [N, classes]. Raises `BackendError`."""
        return self._session.logits(batch)

    def close(self) -> None:
        """Release the graph, once."""
        self.__dict__.pop("_session", None)
