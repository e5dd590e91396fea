"""TensorRT on the stand-in driver: its names, over onnxruntime, which reads the device pointers.

A plan is the path of an ONNX file. `execute_async_v3` queues the inference on the stream, where it
runs when the stream is waited for, like all work of the stand-in.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from edge.engine.onnxruntime import Session
from tests.cuda_driver.standin import Driver

__version__ = "10.3.0"
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
DataType = Enum("DataType", ["FLOAT", "HALF"])
ExecutionContextAllocationStrategy = Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
)
Strategy = ExecutionContextAllocationStrategy


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None: ...


class Trt:
    """What `edge.gpu.nvidia.tensorrt` gives; counts the executions that were queued.

    nap  seconds that each takes longer
    """

    nap = 0.0

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.__version__, self.Logger = __version__, Logger
        self.TensorIOMode, self.DataType = TensorIOMode, DataType
        self.ExecutionContextAllocationStrategy = Strategy
        self.queued: list[int] = []

    def Runtime(self, logger: Logger) -> Runtime:
        return Runtime(self)


class Runtime:
    def __init__(self, trt: Trt) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, data: bytes) -> Plan:
        return Plan(self._trt, Path(os.fsdecode(data)))


class Plan:
    num_io_tensors = 2
    device_memory_size_v2 = 1 << 20  # bytes, of one context

    def __init__(self, trt: Trt, graph: Path) -> None:
        self.trt, self.session = trt, Session(graph, 1)

    def get_tensor_name(self, index: int) -> str:
        return ("pixel_values", "logits")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "pixel_values" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        session = self.session._session
        tensors = (*session.get_inputs(), *session.get_outputs())
        shape = next(one.shape for one in tensors if one.name == name)
        return tuple(side if isinstance(side, int) else -1 for side in shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT

    def create_execution_context(self, strategy: Strategy = Strategy.STATIC) -> Context:
        return Context(self, strategy)


class Context:
    """Its work overwrites all of its memory, which is its own unless it is given one.

    change  logits of a batch -> what the plan returns
    """

    change: Callable[[Any], Any] = staticmethod(lambda logits: logits)

    def __init__(self, plan: Plan, strategy: Strategy) -> None:
        self._plan = plan
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._own = self._memory = 0
        if strategy != Strategy.USER_MANAGED:
            self._own = self._memory = plan.trt.driver.allocate(plan.device_memory_size_v2)

    def __del__(self) -> None:
        if self._own:
            self._plan.trt.driver.free(self._own)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._plan.device_memory_size_v2, size
        self._memory = memory

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        shape, addresses, session = self._shape, dict(self._addresses), self._plan.session
        memory, change = self._memory, self.change
        if not memory:
            return False

        def infer() -> None:
            time.sleep(self._plan.trt.nap)
            ctypes.memset(memory, 0xAB, self._plan.device_memory_size_v2)
            pixels = _array(addresses["pixel_values"], shape)
            logits = change(session.logits(pixels.copy()))
            _array(addresses["logits"], logits.shape)[...] = logits

        self._plan.trt.queued.append(shape[0])
        self._plan.trt.driver.host_function(stream, infer)
        return True


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Float32 memory of the stand-in's GPU, which is the process's own."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
