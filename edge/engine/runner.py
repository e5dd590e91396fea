"""A network on the GPU; `TensorRT` and `OrtCuda` are the two kinds.

A runner owns the device and the network; an execution is what works on one batch in one stream.
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
    """A network's tensors, and its work on them: one batch at a time, in one stream.

    batch   the largest that it takes
    input   address of float32 [batch, 3, height, width] on the GPU, for whoever prepares pictures
    output  address of float32 [batch, classes] on the GPU
    logits  float32 [batch, classes] in pinned memory: what the last batch gave, once it is done
    """

    def __init__(self, runner: Runner, stream: Stream):
        """Raises `BackendError` without memory for it. The device's context is current."""
        device = runner.device
        self.batch, self._shape, self._stream = runner.batch, runner.input_shape, stream
        self.logits = device.pinned((self.batch, runner.outputs))
        self._memory = device.allocate(4 * self.batch * int(np.prod(self._shape)))
        self._output = device.allocate(self.logits.nbytes)
        self.input, self.output = int(self._memory), int(self._output)

    @abstractmethod
    def enqueue(self, count: int) -> None:
        """Infer the first `count` pictures of `input` into `output`, in the stream's order."""

    def download(self, count: int) -> None:
        """Copy the first `count` rows of `output` to `logits`, in the stream's order."""
        self._stream.download(self.logits[:count], self._output)

    @abstractmethod
    def check_capture(self, count: int) -> None:
        """Raises `NoCapture` when what `enqueue` gives to the stream cannot become a graph."""

    @abstractmethod
    def close(self) -> None:
        """Release what executes the network; the memory is the device's."""


class Runner(ABC):
    """A network that is loaded, and the GPU that it is on.

    name                     of the backend
    device                   owns all memory; whoever shares the network makes streams of it
    input_shape, outputs     (channels, height, width) of a picture; how many numbers it gives
    batch                    the largest that it takes
    """

    def __init__(self, name: str, passport: Passport, batch: int):
        """Raises `MissingPackage` without PyCUDA, `BackendError` without a usable GPU."""
        self.name, self.batch = name, batch
        self.input_shape, self.outputs = passport.input_shape, passport.outputs
        self._executions: list[Execution] = []
        self._one: Execution | None = None
        self.device = Device()

    @abstractmethod
    def _execution(self, stream: Stream) -> Execution:
        """A new one of the runner's kind. The device's context is current."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the network, when its executions are closed."""

    def execution(self, stream: Stream) -> Execution:
        """An execution of its own for work in `stream`; it is released with the network."""
        with self.device:
            self._executions.append(self._execution(stream))
        return self._executions[-1]

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W], N up to `batch` -> logits float32 [N, classes].

        From and to the CPU's memory, one batch at a time. Raises `BackendError`.
        """
        count = len(batch)
        self.check_batch(count)
        with self.device as device:
            if self._one is None:
                self._one = self.execution(device.stream)
                self._pinned = device.pinned((self.batch, *self.input_shape))
            np.copyto(self._pinned[:count], batch)
            device.stream.upload(self._one.input, self._pinned[:count])
            self._one.enqueue(count)
            self._one.download(count)
            device.stream.wait()
        logits: Tensor = self._one.logits[:count].copy()
        return logits

    def check_batch(self, count: int) -> None:
        """Raises `BackendError` for a batch that it does not take."""
        if not 1 <= count <= self.batch:
            raise BackendError(
                f"a batch of {count} does not fit an engine for 1 to {self.batch}",
                "build with a larger --max-batch",
            )

    def close(self) -> None:
        """Release the network before the memory and the context that it uses; once."""
        if self.device.closed:
            return
        with self.device as device:
            with suppress(BackendError):  # what is pending uses it; `close` will say what failed
                device.synchronize()
            for execution in self._executions:
                execution.close()
            self._executions.clear()
            self._one = None
            self.__dict__.pop("_pinned", None)
            self._release()
        self.device.close()
