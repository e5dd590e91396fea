"""The TensorRT backends `tensorrt` and `tensorrt-rtx`: a plan on the GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge.engine.passport import Passport
from edge.engine.runner import Execution, Runner
from edge.errors import BackendError, EngineError
from edge.files.reading import read_bytes
from edge.gpu import nvidia
from edge.gpu.bindings import NoCapture
from edge.gpu.device import Stream

__all__ = ["TensorRT"]


class _Context(Execution):
    """A plan's execution contexts, one per batch size, and their tensors.

    A captured CUDA graph is valid only while its context keeps its shape. With a context for each
    batch size, graphs stay valid when cameras come and go. The contexts share one scratch memory,
    as they run in one stream, one after the other; otherwise each would take as much memory as the
    largest batch needs.
    """

    def __init__(self, runner: TensorRT, stream: Stream):
        """Raises `BackendError` if memory runs out. The device's context must be current."""
        super().__init__(runner, stream)
        self._name, self._engine, self._kind = runner.name, runner.engine, runner.contexts
        self._tensors = runner.input_name, runner.output_name
        self._contexts: dict[int, Any] = {}
        self._size = int(self._engine.device_memory_size_v2)
        # A plan may need no scratch memory, and CUDA refuses to allocate 0 bytes.
        self._scratch = int(runner.device.allocate(self._size)) if self._size else 0
        # Created here, so that a lack of memory is found before cameras run.
        for count in {*(1 << power for power in range(self.batch.bit_length())), self.batch}:
            self._context_for(count)

    def _context_for(self, count: int) -> Any:
        """The context for batches of `count`; created on first use unless a power of two."""
        if count not in self._contexts:
            context = self._engine.create_execution_context(self._kind)
            if context is None:
                raise BackendError(
                    f"{self._name} cannot create an execution context for its plan",
                    "close other programs that use the GPU's memory",
                )
            context.set_device_memory(self._scratch, self._size)
            for name, address in zip(self._tensors, (self.input, self.output), strict=True):
                _check(context.set_tensor_address(name, address), self._name, "set_tensor_address")
            ok = context.set_input_shape(self._tensors[0], (count, *self._shape))
            _check(ok, self._name, "set_input_shape")
            self._contexts[count] = context
        return self._contexts[count]

    def enqueue(self, count: int) -> None:
        context = self._context_for(count)
        _check(context.execute_async_v3(self._stream.handle), self._name, "execute_async_v3")

    def check_capture(self, count: int) -> None:
        context = self._context_for(count)
        capturable = getattr(context, "is_stream_capturable", None)  # only TensorRT-RTX has it
        if capturable is not None and not capturable(self._stream.handle):
            raise NoCapture(
                f"{self._name} allocates memory while this plan runs",
                "compile it here again: edge compile ENGINE",
            )

    def close(self) -> None:
        self._contexts.clear()
        for name in ("_kind", "_engine"):
            self.__dict__.pop(name, None)


class TensorRT(Runner):
    """A loaded `model.plan`."""

    def __init__(self, name: str, plan: Path, passport: Passport):
        """plan: a file that was checked against the passport.

        Raises `EngineError` or `BackendError`.
        """
        trt = nvidia.tensorrt(name)
        super().__init__(
            name, passport, passport.plan.max_batch if passport.plan else passport.max_batch
        )
        try:
            with self.device:
                self._load(trt, plan)
                self._find_tensors(trt)
                self.contexts = self._kind_of_contexts(trt)
        except BaseException:
            self.close()
            raise

    def _load(self, trt: Any, plan: Path) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self._runtime.deserialize_cuda_engine(read_bytes(plan))
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
                f"the plan has tensors {names}, but needs one float32 input and one float32 output",
                "compile it again: edge compile ENGINE",
            )
        self.input_name, self.output_name = inputs[0], outputs[0]
        # A plan that returns more than the passport says would write beyond the output's memory.
        wanted = {self.input_name: self.input_shape, self.output_name: (self.outputs,)}
        for name, shape in wanted.items():
            found = tuple(engine.get_tensor_shape(name))[1:]
            if len(found) != len(shape) or not all(
                side in (-1, known) for side, known in zip(found, shape, strict=True)
            ):
                raise EngineError(
                    f"the plan has {name} of {list(found)}, the passport says {list(shape)}",
                    "compile it again: edge compile ENGINE",
                )

    def _kind_of_contexts(self, trt: Any) -> Any:
        """The argument of `create_execution_context`.

        Contexts use memory that we give them, and kernels that are specialised for their shape
        from the start.
        """
        own_memory = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        specialisation = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        create_config = getattr(self.engine, "create_runtime_config", None)
        if specialisation is None or create_config is None:  # TensorRT: the plan has all kernels
            return own_memory
        # By default TensorRT-RTX runs general kernels until those for the shape are compiled, and a
        # graph captured before that would keep them. The cache shares compiled kernels between all
        # contexts.
        config = create_config()
        config.set_execution_context_allocation_strategy(own_memory)
        config.dynamic_shapes_kernel_specialization_strategy = specialisation.EAGER
        self._cache = config.create_runtime_cache()
        _check(config.set_runtime_cache(self._cache), self.name, "set_runtime_cache")
        return config

    def _execution(self, stream: Stream) -> Execution:
        return _Context(self, stream)

    def layers(self) -> list[Any]:
        """The plan's layers, as the JSON of TensorRT's engine inspector. Raises `BackendError`."""
        trt = nvidia.tensorrt(self.name)
        with self.device:
            inspector = self.engine.create_engine_inspector()
            text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            return list(json.loads(text)["Layers"])
        except (ValueError, KeyError, TypeError) as error:
            raise BackendError(
                f"{self.name}: the engine inspector returned no layers ({error})",
                "compile the plan here again: edge compile ENGINE",
            ) from error

    def _release(self) -> None:
        for name in ("contexts", "_cache", "engine", "_runtime"):
            self.__dict__.pop(name, None)


def _check(ok: bool, name: str, call: str) -> None:
    if not ok:
        raise BackendError(
            f"{name}: {call} failed", "compile the plan here again: edge compile ENGINE"
        )
