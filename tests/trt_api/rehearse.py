"""Runs compile.py and trt.py against TensorRT's own classes, with nothing native behind them.

`python -m tests.trt_api.rehearse BACKEND`. Enums, loggers and monitors are the real ones. An object
that only NVIDIA's library could make is an `Actor`: it has what its real class has, takes what the
real signature takes, and answers with what that signature returns.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from edge.builder.compile import Restraint, compile_plan
from edge.engine.passport import Passport
from edge.errors import CompileError, EngineError
from edge.gpu import nvidia
from edge.gpu.bindings import NoCapture
from tests.trt_api.surface import Surface, describe


class Stage:
    """Stands where the package does. `told`: what was asked for, as (member, arguments)."""

    def __init__(self, backend: str):
        self.real = nvidia.tensorrt(backend)
        self.surface: Surface = describe(self.real)
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.real, name)
        if not inspect.isclass(value) or hasattr(value, "__members__"):
            return value
        made = self.surface.classes[value.__qualname__].members["__init__"]
        if any(signature.match(0, []) == [] for signature in made.signatures):
            return value  # needs nothing, so nothing native: loggers and monitors
        return lambda *given, **named: self.construct(value, given, named)

    def construct(self, kind: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Actor:
        self.call(kind.__qualname__, "__init__", given, named)
        return Actor(self, kind.__qualname__)

    def call(self, kind: str, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a method returns. Raises `TypeError` as pybind11 does."""
        signatures = self.surface.classes[kind].members[name].signatures
        for signature in signatures:
            annotations = signature.match(len(given), list(named))
            values = [*given, *named.values()]
            if isinstance(annotations, list) and all(map(self.takes, annotations, values)):
                self.told.append((f"{kind}.{name}", given))
                return self.answer(f"{kind}.{name}", signature.returns, given)
        raise TypeError(f"{kind}.{name} takes {signatures}, not {given} and {named}")

    def answer(self, member: str, returns: str, given: tuple[Any, ...] = ()) -> Any:
        if member in self.answers:
            answer = self.answers[member]
            return answer(*given) if callable(answer) else answer
        if returns in self.surface.classes:
            return Actor(self, returns)
        return {"bool": True, "int": 0, "str": "x", "None": None}[returns]

    def takes(self, annotation: str, value: Any) -> bool:
        if annotation in self.surface.classes:
            if annotation == "Dims":  # pybind11 makes one of any sequence of integers
                return isinstance(value, tuple | list) and all(type(one) is int for one in value)
            if isinstance(value, Actor):
                return annotation in self.surface.classes[value._kind].ancestors
            real = self.real
            for part in annotation.split("."):
                real = getattr(real, part)
            return isinstance(value, real)
        python = {"bool": bool, "int": int, "SupportsInt": int, "str": str, "tuple": tuple}
        python |= {"buffer": bytes, "Buffer": bytes, "list": list}
        return isinstance(value, python[annotation])


class Actor:
    """An object of one of TensorRT's classes."""

    def __init__(self, stage: Stage, kind: str):
        self.__dict__.update(_stage=stage, _kind=kind, _set={})

    def __getattr__(self, name: str) -> Any:
        stage, kind = self._stage, self._kind
        member = stage.surface.classes[kind].members.get(name)
        if member is None:
            raise AttributeError(f"{kind} has no {name}")
        if member.kind == "property":
            return self._set.get(name) or stage.answer(f"{kind}.{name}", member.type)
        return lambda *given, **named: stage.call(kind, name, given, named)

    def __setattr__(self, name: str, value: Any) -> None:
        member = self._stage.surface.classes[self._kind].members.get(name)
        if member is None or not member.writable or not self._stage.takes(member.type, value):
            raise AttributeError(f"{self._kind}.{name} cannot be {value}")
        self._set[name] = value

    def __bytes__(self) -> bytes:
        if not self._stage.surface.classes[self._kind].buffer:
            raise TypeError(f"{self._kind} has no bytes")
        return self._kind.encode()


class Stream:
    """CUDA's, without a GPU."""

    handle = 4096

    def upload(self, *_: object) -> None:
        pass

    def download(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        pass


class Device:
    """CUDA without a GPU."""

    def __init__(self) -> None:
        self.closed = False
        self.stream = Stream()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def pinned(self, shape: tuple[int, ...]) -> Any:
        return np.zeros(shape, np.float32)

    def allocate(self, size: int) -> int:
        return size

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def rehearse_compile(stage: Stage, backend: str, folder: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def build(_: Actor, config: Actor) -> Actor:
        monitor = config.progress_monitor
        monitor.phase_start("tactics", None, 2)
        assert monitor.step_complete("tactics", 0) is True
        monitor.phase_finish("tactics")
        return Actor(stage, "IHostMemory")

    def run(**more: Any) -> Any:
        return compile_plan(
            folder / "model.onnx",
            backend,
            input_shape=(3, 32, 32),
            max_batch=4,
            cache=folder,
            progress=lambda *step: steps.append(step),
            **more,
        )

    stage.answers = {
        "INetworkDefinition.num_inputs": 1,
        "Builder.build_serialized_network": build,
    }
    for _ in range(2):  # the second time there is a timing cache
        compiled = run()
        assert compiled.data == b"IHostMemory", compiled
        assert compiled.version == stage.real.__version__, compiled
    assert steps == [("tactics", 1, 2)] * 2, steps

    restrained = Restraint(level=1, tactic_sources=False)
    told = len(stage.told)
    run(restraint=restrained)
    assert ("IBuilderConfig.set_tactic_sources", (0,)) in stage.told[told:]
    del stage.told[told:]

    flags = dict(stage.told)["Builder.create_network"][0]
    assert flags == 1 << int(stage.real.NetworkDefinitionCreationFlag.STRONGLY_TYPED), flags
    # TensorRT-RTX's plans allocate nothing while they run: they can become CUDA graphs.
    flags = [given[0].name for member, given in stage.told if member.endswith("set_flag")]
    assert flags == (["REQUIRE_USER_ALLOCATION"] * 2 if backend == "tensorrt-rtx" else []), flags
    # TensorRT refuses the kernel timings of another GPU: those of this one start anew.
    refusals = iter([False, True])
    stage.answers["IBuilderConfig.set_timing_cache"] = lambda *_: next(refusals)
    run()
    cached = [given[0] for member, given in stage.told if member.endswith("create_timing_cache")]
    expected = [b"", b"IHostMemory", b"IHostMemory", b""] if backend == "tensorrt" else []
    assert cached == expected, cached
    del stage.answers["IBuilderConfig.set_timing_cache"]

    rehearse_a_gpu(stage, backend, run)

    def refused(reason: str, **answers: Any) -> None:
        before = stage.answers
        stage.answers = before | {name.replace("__", "."): one for name, one in answers.items()}
        try:
            run()
        except CompileError as error:
            assert reason in str(error), error
        else:
            raise AssertionError(f"nobody said {reason}")
        stage.answers = before

    refused("x x: x", OnnxParser__parse_from_file=False, OnnxParser__num_errors=1)
    refused("2 inputs", INetworkDefinition__num_inputs=2)
    refused("profile", IBuilderConfig__add_optimization_profile=-1)
    refused("cannot build", Builder__build_serialized_network=lambda *_: None)


def rehearse_a_gpu(stage: Stage, backend: str, run: Callable[[], Any]) -> None:
    """Where there is a GPU, TensorRT-RTX compiles for it alone; without one, for what it will."""
    asked = "IBuilderConfig.set_compute_capability"
    assert asked not in dict(stage.told)
    without, nvidia.gpu = nvidia.gpu, lambda: nvidia.Gpu("X 1", "8.9")  # type: ignore[assignment]
    try:
        compiled = run()
        assert (compiled.gpu.name, compiled.gpu.compute_capability) == ("X 1", "8.9")
        if backend == "tensorrt-rtx":
            current = stage.real.ComputeCapability.CURRENT
            assert dict(stage.told)[asked] == (current, 0)
            stage.answers[asked] = False
            try:
                run()
            except CompileError as error:
                assert "does not support X 1 (compute capability 8.9)" in str(error), error
            else:
                raise AssertionError("a GPU that TensorRT-RTX refuses was taken")
            del stage.answers[asked]
        else:
            assert asked not in dict(stage.told)
    finally:
        nvidia.gpu = without


def rehearse_run(stage: Stage, backend: str, folder: Path) -> None:
    from edge.engine import runner as runners
    from edge.engine import tensorrt

    runners.Device = Device
    (folder / "model.plan").write_bytes(b"plan")
    modes, types = stage.real.TensorIOMode, stage.real.DataType
    stage.answers = {
        "ICudaEngine.num_io_tensors": 2,
        "ICudaEngine.get_tensor_name": lambda number: ("in", "out")[number],
        "ICudaEngine.get_tensor_mode": {"in": modes.INPUT, "out": modes.OUTPUT}.__getitem__,
        "ICudaEngine.get_tensor_dtype": types.FLOAT,
        "ICudaEngine.get_tensor_shape": {"in": (-1, 3, 8, 8), "out": (-1, 2)}.__getitem__,
        "ICudaEngine.device_memory_size_v2": 5120,
        "EngineInspector.get_engine_information": json.dumps({"Layers": ["one"]}),
    }
    known = SimpleNamespace(plan=None, max_batch=4, input_shape=(3, 8, 8), outputs=2)
    fewer = SimpleNamespace(**{**vars(known), "outputs": 1})
    try:
        tensorrt.TensorRT(backend, folder / "model.plan", cast(Passport, fewer))
    except EngineError as error:
        assert "the plan has out of [2], the passport says [1]" in str(error), error
    else:
        raise AssertionError("a plan that writes beyond its memory was taken")
    runner = tensorrt.TensorRT(backend, folder / "model.plan", cast(Passport, known))
    assert runner.infer(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 2)
    assert runner.layers() == ["one"]
    execution = runner.execution(runner.device.stream)
    execution.check_capture(1)
    if backend == "tensorrt-rtx":
        stage.answers["IExecutionContext.is_stream_capturable"] = lambda handle: handle != 4096
        try:
            execution.check_capture(1)
        except NoCapture as error:
            assert "allocates memory while this plan runs" in str(error), error
        else:
            raise AssertionError("a stream that cannot be captured was taken")
    runner.close()
    told = dict(stage.told)
    rehearse_contexts(stage, backend, told)
    assert ("IExecutionContext.set_input_shape", ("in", (2, 3, 8, 8))) in stage.told
    assert told["IExecutionContext.execute_async_v3"] == (4096,)


def rehearse_contexts(stage: Stage, backend: str, told: dict[str, Any]) -> None:
    """All contexts of an execution work in memory of ours, with kernels for their shape."""
    given = stage.real.ExecutionContextAllocationStrategy.USER_MANAGED
    # The stage's Device allocates at the address that is the size.
    memory = [arguments for member, arguments in stage.told if member.endswith("set_device_memory")]
    assert set(memory) == {(5120, 5120)}, memory
    shapes = [given for member, given in stage.told if member.endswith("set_input_shape")]
    # Two executions for batches of 1, 2 and 4, each made before the first batch.
    assert sorted(shape[1][0] for shape in shapes) == [1, 1, 2, 2, 4, 4], shapes
    (kind,) = told["ICudaEngine.create_execution_context"]
    if backend == "tensorrt":
        assert kind == given, kind
        return
    assert kind._kind == "IRuntimeConfig", kind
    assert told["IRuntimeConfig.set_execution_context_allocation_strategy"] == (given,)
    strategies = stage.real.DynamicShapesKernelSpecializationStrategy
    assert kind.dynamic_shapes_kernel_specialization_strategy == strategies.EAGER
    (cache,) = told["IRuntimeConfig.set_runtime_cache"]
    assert cache._kind == "IRuntimeCache", cache


def main(backend: str) -> None:
    stage = Stage(backend)
    # From here on every import finds the stage.
    sys.modules[nvidia.MODULES[backend]] = cast(Any, stage)
    with tempfile.TemporaryDirectory() as folder:
        rehearse_compile(stage, backend, Path(folder))
        rehearse_run(stage, backend, Path(folder))
    print(f"TensorRT {stage.real.__version__}: {len(stage.told)} calls")


if __name__ == "__main__":
    main(sys.argv[1])
