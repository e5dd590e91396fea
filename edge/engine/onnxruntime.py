"""The onnxruntime backend, and onnxruntime sessions on the CPU for builds.

`load` and `run_error` also serve `edge.engine.onnxruntime_cuda`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import BackendError, GraphError, require

__all__ = ["OnnxRuntime", "Session", "load", "products_saturate", "run_error"]

Tensor = npt.NDArray[np.float32]

_CPU = ["CPUExecutionProvider"]


class Session:
    """A graph loaded on the CPU. Use it on one thread at a time."""

    def __init__(self, graph: Path | bytes, threads: int | None = None, *, fuse_qdq: bool = True):
        """graph: a file, or its bytes. threads: by default, all CPUs of this process. fuse_qdq: run
        Q/DQ Linears as integer products. Set it to False for FP8, for which onnxruntime has no such
        products and fails to load the graph.

        Raises `GraphError` if onnxruntime cannot load the graph.
        """
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        # By default onnxruntime uses the physical cores, which is half of a small cloud machine.
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        # Spinning idle threads take CPU time from decoding; sleeping has no measurable cost.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if fuse_qdq else "1")
        if fuse_qdq and products_saturate():
            self._session = _load_exactly(graph, options)
        else:
            self._session = load(graph, options, _CPU)
        self.input: str = self._session.get_inputs()[0].name
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(
        self,
        batch: Tensor,
        outputs: Sequence[str] | None = None,
        more: Mapping[str, Tensor] | None = None,
    ) -> list[Any]:
        """Images float32 [N, 3, H, W] -> the named outputs, or all. Raises `BackendError`.

        more: optional inputs of the graph, by name.
        """
        feeds = {self.input: batch, **(more or {})}
        try:
            return list(self._session.run(outputs or self.outputs, feeds))
        except Exception as error:
            raise run_error(batch.shape, error) from error

    def logits(self, batch: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] -> the first output, float32 [N, classes]."""
        result: Tensor = self.run(batch, self.outputs[:1])[0]
        return result


class OnnxRuntime:
    """Runs `model.onnx` on the CPU. Use it on one thread at a time."""

    name = "onnxruntime"

    def __init__(self, graph: Path, threads: int | None = None, *, fp8: bool = False):
        self._session = Session(graph, threads, fuse_qdq=not fp8)

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images float32 [N, 3, H, W] -> logits float32 [N, classes]. Raises `BackendError`."""
        return self._session.logits(batch)

    def close(self) -> None:
        """Release the graph. A second call does nothing."""
        self.__dict__.pop("_session", None)


def _load_exactly(graph: Path | bytes, options: Any) -> Any:
    """A session whose INT8 products do not saturate, for a CPU on which they would.

    With this option onnxruntime multiplies unsigned bytes in a slower kernel. It cannot rewrite
    every graph in this way. If it fails, the products are computed in FP32 from the same rounded
    values.
    """
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 4  # do not print an expected failure
    try:
        return load(graph, options, _CPU)
    except GraphError:
        options.add_session_config_entry("session.x64quantprecision", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        return load(graph, options, _CPU)


@lru_cache(maxsize=1)
def products_saturate(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU adds pairs of INT8 products in 16 bits, which saturates: x86 without VNNI.

    On such a CPU (AMD before Zen 4, Intel before Ice Lake) onnxruntime's default kernels cost an
    INT8 ViT about 8 dB.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = cpuinfo.read_text()
    except OSError:
        return True  # unknown: choose the slower, exact kernels
    return re.search(r"\bavx(512)?_vnni\b", flags) is None


def load(graph: Path | bytes, options: Any, providers: Sequence[Any]) -> Any:
    """Create an onnxruntime session for a graph. Raises `GraphError` if it cannot be loaded."""
    ort = require("onnxruntime")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return ort.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base class
        what = "the graph" if isinstance(graph, bytes) else str(graph)
        raise GraphError(
            f"onnxruntime cannot load {what} ({_first_line(error)})",
            "build the engine again: edge build CHECKPOINT",
        ) from error


def run_error(shape: Sequence[int], error: Exception) -> BackendError:
    """The error for a failure of onnxruntime on a batch of this shape."""
    return BackendError(
        f"onnxruntime failed on a batch of {list(shape)} ({_first_line(error)})",
        "build the engine again: edge build CHECKPOINT",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
