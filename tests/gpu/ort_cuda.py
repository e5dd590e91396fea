"""onnxruntime on the GPU as `edge.run.gpu` needs it, for a GPU that TensorRT-RTX refuses.

It stands in for `edge.trt.TensorRT` in tests and benchmarks: the same device pointers, the same
stream. It is no backend of vit-edge.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edge.cuda import Device, Stream
from edge.errors import BackendError
from edge.preprocess.spec import Preprocess


def available() -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class OrtExecution:
    """A session of its own, since a session is bound to one stream; see `edge.trt.Execution`."""

    def __init__(self, runner: OrtCuda, stream: Stream):
        import onnxruntime as ort

        device = runner.device
        self.batch, self._shape = runner.batch, runner.input_shape
        self._stream, self._place = stream, runner.place
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(runner.graph), options, providers=runner.providers(stream)
        )
        self._names = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.logits = device.pinned((self.batch, runner.classes))
        memory = device.allocate(4 * self.batch * int(np.prod(self._shape)))
        self._output = device.allocate(self.logits.nbytes)
        self.input = int(memory)
        self._options = ort.RunOptions()
        # The stream says when it is done; the CPU does not wait.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, count: int) -> None:
        """See `edge.trt.Execution.enqueue`; not while a graph is captured: it allocates."""
        from cuda.bindings import driver

        code, status = driver.cuStreamIsCapturing(self._stream.handle)
        if code or status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
            raise BackendError("onnxruntime's work is not captured", "nothing is to be done")
        binding = self._session.io_binding()
        number, place = np.float32, (self._place, 0)
        shape, classes = (count, *self._shape), self.logits.shape[1]
        binding.bind_input(self._names[0], *place, number, shape, self.input)
        output = int(self._output)
        binding.bind_output(self._names[1], *place, number, (count, classes), output)
        self._session.run_with_iobinding(binding, self._options)
        self._stream.download(self.logits[:count], self._output)

    def close(self) -> None:
        self.__dict__.pop("_session", None)


class OrtCuda:
    """A graph on the GPU by onnxruntime's CUDA provider; see `edge.trt.TensorRT`."""

    place = "cuda"

    def __init__(self, graph: Path, passport: Any):
        self.name, self.graph = "onnxruntime-cuda", graph
        self.batch, self.input_shape = passport.max_batch, passport.input_shape
        self.classes = len(passport.labels)
        self.device = Device()
        self._executions: list[OrtExecution] = []

    def providers(self, stream: Stream) -> list[Any]:
        return [("CUDAExecutionProvider", {"user_compute_stream": str(stream.handle)})]

    def execution(self, stream: Stream) -> OrtExecution:
        with self.device:
            self._executions.append(OrtExecution(self, stream))
        return self._executions[-1]

    def close(self) -> None:
        if not self.device.closed:
            self.device.synchronize()
            while self._executions:
                self._executions.pop().close()
            self.device.close()


def passport(max_batch: int, spec: Preprocess, classes: int) -> Any:
    """What an engine and its runner ask of a passport, for a graph that has none."""
    return SimpleNamespace(
        name="gpu",
        plan=None,
        max_batch=max_batch,
        input_shape=(3, spec.height, spec.width),
        preprocess=spec,
        labels=tuple(map(str, range(classes))),
    )
