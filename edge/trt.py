"""The TensorRT backends: a plan on the GPU, for `tensorrt` and `tensorrt-rtx` alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge import nvidia
from edge.cuda import Device
from edge.errors import BackendError, EngineError
from edge.passport import Passport

__all__ = ["TensorRT"]

Tensor = npt.NDArray[np.float32]


class TensorRT:
    """Runs `model.plan`: pinned host buffers, one stream, one batch at a time."""

    def __init__(self, name: str, plan: Path, passport: Passport):
        """plan: a file whose passport was checked. Raises `EngineError` or `BackendError`."""
        self.name = name
        trt = nvidia.tensorrt(name)
        self._device = Device()
        try:
            with self._device:
                self._load(trt, plan)
                self._bind(trt, passport)
        except BaseException:
            self.close()
            raise

    def _load(self, trt: Any, plan: Path) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{self.name} {trt.__version__} cannot load {plan}",
                f"compile it here: edge compile {plan.parent}",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self.name} cannot make a context for {plan}",
                "close other programs that use the GPU's memory",
            )

    def _bind(self, trt: Any, passport: Passport) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        floats = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
        if len(inputs) != 1 or len(outputs) != 1 or not floats:
            raise EngineError(
                f"the plan has tensors {names}, not one float32 input and one float32 output",
                "compile it again: edge compile ENGINE",
            )
        self._input = inputs[0]
        self._batch = passport.plan.max_batch if passport.plan else passport.max_batch
        self._shape = passport.input_shape
        self._host_in = self._device.pinned((self._batch, *self._shape))
        self._host_out = self._device.pinned((self._batch, len(passport.labels)))
        self._device_in = self._device.allocate(self._host_in.nbytes)
        self._device_out = self._device.allocate(self._host_out.nbytes)
        for name, memory in ((inputs[0], self._device_in), (outputs[0], self._device_out)):
            self._check(self._context.set_tensor_address(name, int(memory)), "set_tensor_address")

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W], N up to max_batch -> logits float32 [N, classes].

        Raises `BackendError`.
        """
        count = len(batch)
        if not 1 <= count <= self._batch:
            raise BackendError(
                f"a batch of {count} does not fit a plan for 1 to {self._batch}",
                "build with a larger --max-batch",
            )
        np.copyto(self._host_in[:count], batch)
        with self._device as device:
            device.stream.upload(self._device_in, self._host_in[:count])
            shape = (count, *self._shape)
            self._check(self._context.set_input_shape(self._input, shape), "set_input_shape")
            self._check(self._context.execute_async_v3(device.stream.handle), "execute_async_v3")
            device.stream.download(self._host_out[:count], self._device_out)
            device.stream.wait()
        logits: Tensor = self._host_out[:count].copy()
        return logits

    def layers(self) -> list[Any]:
        """What TensorRT's engine inspector says of the plan: its layers, as JSON gives them."""
        trt = nvidia.tensorrt(self.name)
        with self._device:
            inspector = self._engine.create_engine_inspector()
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
        if self._device.closed:
            return
        with self._device:
            for name in ("_context", "_engine", "_runtime"):
                self.__dict__.pop(name, None)
            for name in ("_host_in", "_host_out", "_device_in", "_device_out"):
                self.__dict__.pop(name, None)
        self._device.close()

    def _check(self, worked: bool, call: str) -> None:
        if not worked:
            raise BackendError(
                f"{self.name}: {call} failed", "compile the plan here again: edge compile ENGINE"
            )
