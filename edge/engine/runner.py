"""`Runner` and `Execution`: a network that is loaded on a GPU; base of `TensorRT` and `OrtCuda`.

A runner owns the device and the network. An execution infers one batch at a time in one stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from edge.engine.passport import Passport
from edge.errors import BackendError
from edge.gpu.device import Device, Stream

__all__ = ["Execution", "Runner"]

Tensor = npt.NDArray[np.float32]


class Execution(ABC):
    """A network's tensors, and inference on them: one batch at a time, in one stream.

    batch   the largest batch
    input   address of float32 [batch, 3, height, width] on the GPU, which preprocessing writes
    output  address of float32 [batch, classes] on the GPU
    logits  float32 [batch, classes] in pinned memory: the result, once the stream has finished
    """

    def __init__(self, runner: Runner, stream: Stream):
        """Raises `BackendError` if memory runs out. The device's context must be current."""
        device = runner.device
        self.batch, self._shape, self._stream = runner.batch, runner.input_shape, stream
        self.logits = device.pinned((self.batch, runner.outputs))
        self._memory = device.allocate(4 * self.batch * int(np.prod(self._shape)))
        self._output = device.allocate(self.logits.nbytes)
        self.input, self.output = int(self._memory), int(self._output)

    @abstractmethod
    def enqueue(self, count: int) -> None:
        """Enqueue in the stream: infer the first `count` images of `input` into `output`."""

    def download(self, count: int) -> None:
        """Enqueue in the stream: copy the first `count` rows of `output` to `logits`."""
        self._stream.download(self.logits[:count], self._output)

    @abstractmethod
    def check_capture(self, count: int) -> None:
        """Raises `NoCapture` if the work of `enqueue` cannot be captured in a CUDA graph."""

    @abstractmethod
    def close(self) -> None:
        """Release the network's execution; the device owns and frees the memory."""


class Runner(ABC):
    """A network that is loaded on a GPU.

    name         of the backend
    device       owns all memory; users of the network create their streams with it
    input_shape  (channels, height, width) of an image
    outputs      numbers per image
    batch        the largest batch
    """

    def __init__(self, name: str, passport: Passport, batch: int):
        """Raises `MissingPackage` without PyCUDA, `BackendError` without a usable GPU."""
        self.name, self.batch = name, batch
        self.input_shape, self.outputs = passport.input_shape, passport.outputs
        self._executions: list[Execution] = []
        self._sync: Execution | None = None  # of `infer`
        self.device = Device()

    @abstractmethod
    def _execution(self, stream: Stream) -> Execution:
        """Create an execution of the runner's type. The device's context is current."""

    @abstractmethod
    def _release(self) -> None:
        """Release the network; its executions are closed already."""

    def execution(self, stream: Stream) -> Execution:
        """A new execution for work in `stream`; it is released with the network."""
        with self.device:
            self._executions.append(self._execution(stream))
        return self._executions[-1]

    def infer(self, batch: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W], N up to `batch` -> logits float32 [N, classes].

        Both are in system memory. One batch at a time. Raises `BackendError`.
        """
        count = len(batch)
        self.check_batch(count)
        with self.device as device:
            if self._sync is None:
                self._sync = self.execution(device.stream)
                self._pinned = device.pinned((self.batch, *self.input_shape))
            np.copyto(self._pinned[:count], batch)
            device.stream.upload(self._sync.input, self._pinned[:count])
            self._sync.enqueue(count)
            self._sync.download(count)
            device.stream.wait()
        logits: Tensor = self._sync.logits[:count].copy()
        return logits

    def check_batch(self, count: int) -> None:
        """Raises `BackendError` unless `count` is 1 to `batch`."""
        if not 1 <= count <= self.batch:
            raise BackendError(
                f"a batch of {count} does not fit an engine for 1 to {self.batch}",
                "build with a larger --max-batch",
            )

    def close(self) -> None:
        """Release the network, then the memory and the context. A second call does nothing."""
        if self.device.closed:
            return
        with self.device as device:
            with suppress(
                BackendError
            ):  # pending work uses the network; device.close() raises the error
                device.synchronize()
            for execution in self._executions:
                execution.close()
            self._executions.clear()
            self._sync = None
            self.__dict__.pop("_pinned", None)
            self._release()
        self.device.close()
