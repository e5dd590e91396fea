"""The TensorRT backends: a plan on the GPU, for `tensorrt` and `tensorrt-rtx` alike."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge import nvidia
from edge.cuda import Device, Stream
from edge.errors import BackendError, EngineError
from edge.passport import Passport

__all__ = ["Execution", "TensorRT"]

Tensor = npt.NDArray[np.float32]


class Execution:
    """A plan's execution context and its tensors: one batch at a time, in one stream.

    batch   the largest that it takes
    input   address of float32 [batch, 3, height, width] on the GPU, for whoever prepares pictures
    logits  float32 [batch, classes] in pinned memory: what the last batch gave, once it is done
    """

    def __init__(self, runner: TensorRT, stream: Stream):
        """Raises `BackendError` without memory for it. The device's context is current."""
        device = runner.device
        self._name, self._stream, self._tensor = runner.name, stream, runner.input_name
        self.batch, self._shape = runner.batch, runner.input_shape
        self._context = runner.engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self._name} cannot make a context for its plan",
                "close other programs that use the GPU's memory",
            )
        size = 4 * self.batch * int(np.prod(self._shape))
        self.logits = device.pinned((self.batch, runner.classes))
        self._memory = device.allocate(size)
        self._output = device.allocate(self.logits.nbytes)
        self.input = int(self._memory)
        for name, memory in ((self._tensor, self._memory), (runner.output_name, self._output)):
            worked = self._context.set_tensor_address(name, int(memory))
            _check(worked, self._name, "set_tensor_address")

    def enqueue(self, count: int) -> None:
        """Infer the first `count` pictures of `input` into `logits`, in the stream's order."""
        worked = self._context.set_input_shape(self._tensor, (count, *self._shape))
        _check(worked, self._name, "set_input_shape")
        worked = self._context.execute_async_v3(self._stream.handle)
        _check(worked, self._name, "execute_async_v3")
        self._stream.download(self.logits[:count], self._output)

    def close(self) -> None:
        """Release TensorRT's object; the memory is the device's."""
        self.__dict__.pop("_context", None)


class TensorRT:
    """A loaded `model.plan`, and the GPU that it is on.

    device                   owns all memory; whoever shares the plan makes streams of it
    input_shape, classes     (channels, height, width) of a picture; how many logits it gives
    batch                    the largest that the plan takes
    """

    def __init__(self, name: str, plan: Path, passport: Passport):
        """plan: a file whose passport was checked. Raises `EngineError` or `BackendError`."""
        self.name = name
        self.batch = passport.plan.max_batch if passport.plan else passport.max_batch
        self.input_shape, self.classes = passport.input_shape, len(passport.labels)
        trt = nvidia.tensorrt(name)
        self._executions: list[Execution] = []
        self._one: Execution | None = None
        self.device = Device()
        try:
            with self.device:
                self._load(trt, plan)
                self._find_tensors(trt)
        except BaseException:
            self.close()
            raise

    def _load(self, trt: Any, plan: Path) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self.engine is None:
            raise EngineError(
                f"{self.name} {trt.__version__} cannot load {plan}",
                f"compile it here: edge compile {plan.parent}",
            )

    def _find_tensors(self, trt: Any) -> None:
        engine = self.engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        floats = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
        if len(inputs) != 1 or len(outputs) != 1 or not floats:
            raise EngineError(
                f"the plan has tensors {names}, not one float32 input and one float32 output",
                "compile it again: edge compile ENGINE",
            )
        self.input_name, self.output_name = inputs[0], outputs[0]

    def execution(self, stream: Stream) -> Execution:
        """A context of its own for work in `stream`; it is released with the plan."""
        with self.device:
            self._executions.append(Execution(self, stream))
        return self._executions[-1]

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W], N up to max_batch -> logits float32 [N, classes].

        From and to the CPU's memory, one batch at a time. Raises `BackendError`.
        """
        count = len(batch)
        if not 1 <= count <= self.batch:
            raise BackendError(
                f"a batch of {count} does not fit a plan for 1 to {self.batch}",
                "build with a larger --max-batch",
            )
        with self.device as device:
            if self._one is None:
                self._one = self.execution(device.stream)
                self._pinned = device.pinned((self.batch, *self.input_shape))
            np.copyto(self._pinned[:count], batch)
            device.stream.upload(self._one.input, self._pinned[:count])
            self._one.enqueue(count)
            device.stream.wait()
        logits: Tensor = self._one.logits[:count].copy()
        return logits

    def layers(self) -> list[Any]:
        """What TensorRT's engine inspector says of the plan: its layers, as JSON gives them."""
        trt = nvidia.tensorrt(self.name)
        with self.device:
            inspector = self.engine.create_engine_inspector()
            text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            return list(json.loads(text)["Layers"])
        except (ValueError, KeyError, TypeError) as error:
            raise BackendError(
                f"{self.name}: the engine inspector gave no layers ({error})",
                "compile the plan here again: edge compile ENGINE",
            ) from error

    def close(self) -> None:
        """Release TensorRT's objects before the memory and the context that they use; once."""
        if self.device.closed:
            return
        with self.device as device:
            with suppress(BackendError):  # what is pending uses them; `close` will say what failed
                device.synchronize()
            for execution in self._executions:
                execution.close()
            self._executions.clear()
            self._one = None
            for name in ("engine", "_runtime", "_pinned"):
                self.__dict__.pop(name, None)
        self.device.close()


def _check(worked: bool, name: str, call: str) -> None:
    if not worked:
        raise BackendError(
            f"{name}: {call} failed", "compile the plan here again: edge compile ENGINE"
        )
