"""The onnxruntime-cuda backend: an engine's portable graph on the GPU, without TensorRT.

onnxruntime reads and writes the same device memory as a plan would, in the same stream.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from edge.engine.onnxruntime import load, run_error
from edge.engine.passport import Passport
from edge.engine.runner import Execution, Runner
from edge.errors import BackendError, MissingPackage, require
from edge.gpu.bindings import NoCapture
from edge.gpu.device import Stream

__all__ = ["NAME", "OrtCuda", "check", "probe"]

NAME = "onnxruntime-cuda"
_PROVIDER = "CUDAExecutionProvider"
# An ONNX graph of one node, Abs: float32 [1] -> [1].
_GRAPH = (
    b'\x08\x08\x12\x00:2\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
_INSTALL = (
    "run .venv/bin/pip uninstall -y onnxruntime, then .venv/bin/pip install "
    "'onnxruntime-gpu[cuda,cudnn]'"
)


def check() -> str:
    """The version of onnxruntime. Raises `MissingPackage` if it does not support CUDA."""
    require("pycuda.driver")
    ort = require("onnxruntime")
    if _PROVIDER not in ort.get_available_providers():
        raise MissingPackage(f"onnxruntime {ort.__version__} is built without CUDA", _INSTALL)
    return str(ort.__version__)


def probe() -> str:
    """The version of onnxruntime, once a graph ran on the GPU with it.

    A provider that is listed may still not load: without cuDNN, or in a container for another
    JetPack, onnxruntime says so on stderr and runs everything on the CPU. Raises `MissingPackage`.
    """
    version = check()
    ort = require("onnxruntime")
    _preload(ort)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(_GRAPH, options, providers=[_PROVIDER])
    if session.get_providers()[0] != _PROVIDER:
        raise MissingPackage(
            f"onnxruntime {version} lists {_PROVIDER} and does not use it: CUDA or cuDNN cannot be "
            "loaded",
            _INSTALL,
        )
    return version


def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from pip's packages. Before 1.21 onnxruntime used only the system's."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with redirect_stdout(sys.stderr):  # it prints the libraries that it does not find
            preload()


class _Session(Execution):
    """An onnxruntime session with its own weights, since a session is bound to one stream."""

    def __init__(self, runner: OrtCuda, stream: Stream):
        """Raises `GraphError` or `BackendError`. The device's context is current."""
        super().__init__(runner, stream)
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1" if runner.fp8 else "0")
        provider = (_PROVIDER, {"user_compute_stream": str(stream.handle)})
        self._session = load(runner.graph, options, [provider])
        if (
            self._session.get_providers()[0] != _PROVIDER
        ):  # onnxruntime falls back to the CPU without an error
            raise BackendError(
                "onnxruntime cannot load its CUDA provider; the reason is printed above",
                f"{_INSTALL}, or use --backend onnxruntime",
            )
        self._names = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self._bindings: dict[int, Any] = {}
        self._options = ort.RunOptions()
        # The caller waits for the stream; onnxruntime itself must not wait.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, count: int) -> None:
        if count not in self._bindings:
            self._bindings[count] = self._bound(count)
        try:
            self._session.run_with_iobinding(self._bindings[count], self._options)
        except Exception as error:  # onnxruntime's classes have no common base
            raise run_error((count, *self._shape), error) from error

    def _bound(self, count: int) -> Any:
        """The tensors for a batch of `count`."""
        binding, (input_name, output_name) = self._session.io_binding(), self._names
        shape, classes = (count, *self._shape), (count, self.logits.shape[1])
        binding.bind_input(input_name, "cuda", 0, np.float32, shape, self.input)
        binding.bind_output(output_name, "cuda", 0, np.float32, classes, self.output)
        return binding

    def check_capture(self, count: int) -> None:
        raise NoCapture(
            "onnxruntime allocates memory while it runs", "use TensorRT, which supports CUDA graphs"
        )

    def close(self) -> None:
        for name in ("_bindings", "_session"):
            self.__dict__.pop(name, None)


class OrtCuda(Runner):
    """Runs `model.onnx` with onnxruntime's CUDA provider."""

    def __init__(self, graph: Path, passport: Passport):
        """graph: a file that was checked against the passport.

        Raises `MissingPackage` or `BackendError`.
        """
        check()
        super().__init__(NAME, passport, passport.max_batch)
        self.graph, self.fp8 = graph, passport.precision == "fp8"
        _preload(require("onnxruntime"))

    def _execution(self, stream: Stream) -> Execution:
        return _Session(self, stream)

    def _release(self) -> None:
        """Nothing to do: the executions hold the network."""
