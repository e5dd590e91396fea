"""TensorRT's compiler on the stand-in driver, and plans that answer wrongly in a planned way.

A plan is the ONNX graph itself. The environment variable EMULATED_TENSORRT plans what goes wrong:
`{"fault": NAME, "unless": CURE}` as JSON. Every plan has the fault, one of `Wrong`'s methods,
unless the graph or the compiler's settings have the cure:

    bf16       something in the graph computes in BF16
    attention  the products of attention are FP32 in an FP16 graph
    residual   so are the residual sums
    level      a builder optimization level of 1
    tactics    no optional tactic sources
    fp16       the graph has no INT8
    ""         nothing helps
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from tests.cuda_driver import emulated_trt
from tests.cuda_driver.standin import Driver

FAULT = "EMULATED_TENSORRT"
_KEY = "emulated_fault"


def planned(fault: str, unless: str = "") -> dict[str, str]:
    """The environment in which all plans have a fault."""
    return {FAULT: json.dumps({"fault": fault, "unless": unless})}


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...


class IProgressMonitor:
    def __init__(self) -> None: ...


class Compiler(emulated_trt.Trt):
    """`edge.builder.compile` and `edge.engine.tensorrt` find all that they use in here."""

    ILogger, IProgressMonitor = ILogger, IProgressMonitor
    BuilderFlag = IntEnum("BuilderFlag", ["TF32"])
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["STRONGLY_TYPED"])
    LayerInformationFormat = IntEnum("LayerInformationFormat", ["JSON"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"plan-{os.getpid()}"

    def Builder(self, log: ILogger) -> Builder:
        return Builder()

    def OnnxParser(self, network: Network, log: ILogger) -> Parser:
        return Parser(network)

    def Runtime(self, logger: Any) -> Any:
        return Runtime(self)


class Network:
    num_inputs = 1
    graph = ModelProto()

    def get_input(self, number: int) -> Any:
        return self.graph.graph.input[number]


class Parser:
    num_errors = 0

    def __init__(self, network: Network) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.graph = onnx.load(path)
        return True


class Timings:
    def serialize(self) -> bytes:
        return b"timings"


class Config:
    builder_optimization_level, tactic_sources = 3, 3

    def set_memory_pool_limit(self, kind: Any, size: int) -> None: ...

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_tactic_sources(self, sources: int) -> bool:
        self.tactic_sources = sources
        return True

    def create_timing_cache(self, start: bytes) -> Timings:
        return Timings()

    def set_timing_cache(self, timing: Timings, ignore_mismatch: bool) -> bool:
        return True


class Profile:
    def set_shape(self, name: str, *shapes: Any) -> None: ...


class Builder:
    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        found = json.loads(os.environ.get(FAULT, "{}"))
        model = network.graph
        if found and found["unless"] not in _cures(model, config):
            if found["fault"] == "unbuildable":
                return None
            model.metadata_props.add(key=_KEY, value=found["fault"])
        return model.SerializeToString()


def _cures(model: ModelProto, config: Config) -> set[str]:
    """Of the cures above, those that a graph and the settings of its compilation have."""
    inside = [n for n in model.graph.node if any(o.endswith("_island") for o in n.output)]
    operators = {node.op_type for node in inside}
    half = any(
        attribute.name == "to" and attribute.i == TensorProto.BFLOAT16
        for node in model.graph.node
        for attribute in node.attribute
    )
    found = {"bf16"} if half else set()
    if not half and "MatMul" in operators:
        found.add("attention")
    if "LayerNormalization" in operators:
        found.add("residual")
    if config.builder_optimization_level == 1:
        found.add("level")
    if config.tactic_sources == 0:
        found.add("tactics")
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        found.add("fp16")
    return found


class Inspector:
    def get_engine_information(self, form: Any) -> str:
        return '{"Layers": []}'


class Runtime:
    def __init__(self, trt: Compiler) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, data: bytes) -> Plan | None:
        model = ModelProto.FromString(data)
        faults = [item.value for item in model.metadata_props if item.key == _KEY]
        if faults == ["unloadable"]:
            return None
        self._trt.scratch.write_bytes(_without_bf16(model).SerializeToString())
        try:
            return Plan(self._trt, self._trt.scratch, faults[0] if faults else "")
        finally:
            self._trt.scratch.unlink()


def _without_bf16(model: ModelProto) -> ModelProto:
    """BF16 as onnxruntime computes on a CPU: in FP32, of values that were rounded to BF16."""
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                (rounded,) = node.output
                node.output[0] = f"{rounded}_16"
                nodes.append(
                    onnx.helper.make_node("Cast", [node.output[0]], [rounded], to=TensorProto.FLOAT)
                )
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


class Plan(emulated_trt.Plan):
    def __init__(self, trt: Compiler, graph: Path, fault: str) -> None:
        super().__init__(trt, graph)
        self._wrong = Wrong()
        # What of `Wrong` happens to the outputs of a batch; for any other fault, nothing.
        self.change = getattr(self._wrong, fault, None)
        self.fault = fault

    def create_engine_inspector(self) -> Inspector:
        return Inspector()

    def create_execution_context(self, strategy: Any = emulated_trt.Strategy.STATIC) -> Any:
        return None if self.fault == "no_memory" else Context(self, strategy)


class Context(emulated_trt.Context):
    def execute_async_v3(self, stream: int) -> bool:
        capturing = ctypes.c_int()
        self._plan.trt.driver._library.cuStreamIsCapturing(
            ctypes.c_void_p(stream), ctypes.byref(capturing)
        )
        change = self._plan.change
        if change is not None:
            self.change = lambda logits: change(logits, bool(capturing.value))
        return super().execute_async_v3(stream)


class Wrong:
    """How a plan can answer: logits [N, classes], whether in a CUDA graph -> what it returns."""

    def __init__(self) -> None:
        self._runs = 0

    def one_class(self, logits: Any, graph: bool) -> Any:
        return np.eye(1, logits.shape[1], 2, dtype=np.float32).repeat(len(logits), 0)

    def exchanged(self, logits: Any, graph: bool) -> Any:
        return logits[:, [1, 0, *range(2, logits.shape[1])]]

    def nan_in_the_largest_batch(self, logits: Any, graph: bool) -> Any:
        return logits * np.float32(np.nan) if len(logits) == 4 else logits

    def wrong_in_the_graph(self, logits: Any, graph: bool) -> Any:
        return -logits if graph else logits

    def right_the_first_time(self, logits: Any, graph: bool) -> Any:
        self._runs += len(logits)
        return logits if self._runs <= 8 else logits[:, ::-1]

    def other_bits_each_time(self, logits: Any, graph: bool) -> Any:
        self._runs += 1
        return logits * np.float32(1 + 1e-6 * self._runs)

    def noise_of_2_percent(self, logits: Any, graph: bool) -> Any:
        return self._noisy(logits, 0.02)

    def noise_of_a_hundredth_percent(self, logits: Any, graph: bool) -> Any:
        return self._noisy(logits, 0.0001)

    def _noisy(self, logits: Any, share: float) -> Any:
        noise = np.random.default_rng(0).standard_normal(logits.shape)
        size = np.sqrt((logits.astype(np.float64) ** 2).mean())
        return (logits + share * size * noise).astype(np.float32)

    def hang(self, logits: Any, graph: bool) -> Any:
        time.sleep(600)

    def crash(self, logits: Any, graph: bool) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)

    def killed(self, logits: Any, graph: bool) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
