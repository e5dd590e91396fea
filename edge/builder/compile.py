"""The compiler: graph -> plan with TensorRT or TensorRT-RTX; all version differences are here.

The same code serves TensorRT 10.3 to 11.x and TensorRT-RTX. Networks are always strongly typed (a
flag in 10.x, the only kind from 11 on), so that the graph alone determines the precision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.engine.passport import Plan
from edge.errors import CompileError
from edge.files.reading import read_bytes
from edge.files.storage import write_bytes
from edge.gpu import nvidia

__all__ = ["Progress", "Restraint", "available", "compile_plan", "identity"]

Progress = Callable[[str, int, int], None]  # (what, done, total)


def available() -> tuple[str | None, str]:
    """The backend that this machine can compile for (or None), and the reason."""
    found, gpu = nvidia.installed(), nvidia.gpu()
    if "tensorrt" in found and gpu is None:
        found.remove("tensorrt")  # it times its kernels on the GPU, TensorRT-RTX does not
    if found == ["tensorrt-rtx"] and gpu is not None and not _is_rtx(gpu):
        return None, f"TensorRT-RTX does not support {_in_words(gpu)}"
    if found:
        return found[0], "installed"
    return None, "neither TensorRT with a GPU nor TensorRT-RTX is installed"


def _is_rtx(gpu: nvidia.Gpu) -> bool:
    """Whether TensorRT-RTX supports the GPU's compute capability.

    A version of TensorRT-RTX that lists no compute capabilities supports every one.
    """
    capabilities = getattr(nvidia.tensorrt("tensorrt-rtx"), "ComputeCapability", None)
    name = "SM" + gpu.compute_capability.replace(".", "")
    return capabilities is None or getattr(capabilities, name, None) is not None


def _in_words(gpu: nvidia.Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.compute_capability})"


def identity(backend: str | None) -> list[str | None]:
    """What a plan depends on besides its graph: backend, its version, GPU, compute capability."""
    if backend is None:
        return []
    gpu = nvidia.gpu()
    here = [gpu.name, gpu.compute_capability] if gpu else [None, None]
    return [backend, nvidia.version(backend), *here]


@dataclass(frozen=True)
class Restraint:
    """What the compiler may not do.

    level           its optimization level, 0 to 5; None: its default, which is 3
    tactic_sources  whether it may choose kernels of the optional sources, such as JIT convolutions
    """

    level: int | None = None
    tactic_sources: bool = True


@dataclass(frozen=True)
class Compiled:
    """A serialised plan, and the TensorRT version and GPU that it belongs to."""

    data: bytes
    version: str
    gpu: nvidia.Gpu | None

    def plan(self, backend: str, graph: str, max_batch: int, model_sha256: str) -> Plan:
        """The passport's entry for this plan, compiled from the file `graph`."""
        gpu = self.gpu
        return Plan(
            backend=backend,
            graph=graph,
            version=self.version,
            gpu=gpu.name if gpu else None,
            compute_capability=gpu.compute_capability if gpu else None,
            max_batch=max_batch,
            model_sha256=model_sha256,
        )


def compile_plan(
    graph: Path,
    backend: str,
    *,
    input_shape: tuple[int, int, int],
    max_batch: int,
    cache: Path,
    progress: Progress,
    restraint: Restraint = Restraint(),
) -> Compiled:
    """Compile a graph for batches of 1 to `max_batch` images of `input_shape` (C, H, W).

    cache: folder of TensorRT's timing cache. Raises `MissingPackage`, or `CompileError` with
    TensorRT's own message. Ctrl-C stops the build at its next step.
    """
    trt = nvidia.tensorrt(backend)
    gpu = nvidia.gpu()
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        reasons = [
            f"{error.node_operator()} {error.node_name()}: {error.desc()}".strip(" :")
            for error in errors
        ]
        raise CompileError(
            f"{backend} cannot read {graph} ({'; '.join(reasons) or log.last})",
            "build the engine again: edge build CHECKPOINT",
        )
    if network.num_inputs != 1:
        raise CompileError(
            f"{graph} has {network.num_inputs} inputs, expected 1",
            "build the engine again: edge build CHECKPOINT",
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace_bytes())
    # Otherwise TensorRT-RTX allocates memory while it runs, which a CUDA graph cannot capture.
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:
        config.set_flag(user_allocation)
    if restraint.level is not None:
        config.builder_optimization_level = restraint.level
    if not restraint.tactic_sources:
        config.set_tactic_sources(0)
    if gpu is not None:
        _only_for(gpu, trt, config)
    name = network.get_input(0).name
    profile = builder.create_optimization_profile()
    shapes = [(batch, *input_shape) for batch in (1, max_batch, max_batch)]
    profile.set_shape(name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(
            f"{backend} rejects the optimization profile {shapes} for {name} ({log.last})",
            "choose another --max-batch",
        )
    timing_path = cache / f"timing-{trt.__version__}-{gpu.name if gpu else 'none'}.bin"
    # TensorRT-RTX times no kernels while it builds, so it has no timing cache.
    timing = _use_timing_cache(config, timing_path) if backend == "tensorrt" else None
    serialized = _build(trt, builder, network, config, progress)
    if serialized is None:
        raise CompileError(
            f"{backend} {trt.__version__} cannot build a plan ({log.last})",
            "if memory is short, close other programs or lower --max-batch; see edge doctor",
        )
    if timing is not None:
        write_bytes(timing_path, bytes(timing.serialize()))
    return Compiled(bytes(serialized), str(trt.__version__), gpu)


def _strongly_typed(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _only_for(gpu: nvidia.Gpu, trt: Any, settings: Any) -> None:
    """Restrict a TensorRT-RTX plan to this GPU; TensorRT's plans always are.

    Raises `CompileError` when TensorRT-RTX does not support the GPU.
    """
    capabilities = getattr(trt, "ComputeCapability", None)
    if capabilities is None:
        return
    settings.num_compute_capabilities = 1
    if not settings.set_compute_capability(capabilities.CURRENT, 0):
        raise CompileError(
            f"TensorRT-RTX {trt.__version__} does not support {_in_words(gpu)}",
            "use edge run --backend onnxruntime-cuda, which needs no plan; see edge doctor",
        )


def _workspace_bytes() -> int:
    """Half of the available memory in bytes; 1 GiB where it is unknown.

    On a board CPU and GPU share the memory, and the build itself needs some of it.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    return 1 << 30


def _use_timing_cache(config: Any, path: Path) -> Any:
    """Use the kernel timings of earlier builds; a cache of another machine is ignored.

    Returns the timing cache in use, or None.
    """
    for start in (read_bytes(path) if path.is_file() else b"", b""):
        timing = config.create_timing_cache(start)
        # A cache that TensorRT rejects collects no timings, so an empty one is tried next.
        if timing is not None and config.set_timing_cache(timing, False):
            return timing
    return None


def _logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last error, for our error messages."""
    levels = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.last = message

    return Log()


def _build(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    """Build on a separate thread, so that Ctrl-C interrupts this one and not TensorRT."""
    stop = threading.Event()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phases[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self.phases.get(phase, step + 1))
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    result: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(builder.build_serialized_network(network, config))
        except BaseException as error:  # raised again by the waiting thread
            failure.append(error)
        finally:
            finished.set()

    # An event and not Thread.join: after a Ctrl-C, join in Python 3.10 to 3.12 treats a running
    # thread as finished (bpo-45274).
    finished = threading.Event()
    threading.Thread(target=work, name="tensorrt-build").start()
    try:
        finished.wait()
    finally:
        stop.set()
        finished.wait()
    if failure:
        raise failure[0]
    return result[0]
