"""Graph -> plan with TensorRT or TensorRT-RTX; every version rule lives here.

One code for TensorRT 10.3 to 11.x and TensorRT-RTX: networks are always strongly typed (the flag in
10.x, the only kind from 11 on), so that precision is what the graph says and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.engine.passport import Plan
from edge.errors import CompileError
from edge.files.storage import write_bytes
from edge.gpu import nvidia

__all__ = ["Progress", "available", "compile_plan", "identity"]

Progress = Callable[[str, int, int], None]  # (what, done, of how many)


def available() -> tuple[str | None, str]:
    """The backend that this machine can compile for, and why that one (or why none)."""
    found, gpu = nvidia.installed(), nvidia.gpu()
    if "tensorrt" in found and gpu is None:
        found.remove("tensorrt")  # it times its kernels on the GPU, TensorRT-RTX does not
    if found == ["tensorrt-rtx"] and gpu is not None and not _is_rtx(gpu):
        return None, f"TensorRT-RTX makes no plan for {_in_words(gpu)}"
    if found:
        return found[0], "installed"
    return None, "neither TensorRT with a GPU nor TensorRT-RTX is installed here"


def _is_rtx(gpu: nvidia.Gpu) -> bool:
    """Whether TensorRT-RTX names its compute capability; a version that names none takes any."""
    capabilities = getattr(nvidia.tensorrt("tensorrt-rtx"), "ComputeCapability", None)
    name = "SM" + gpu.compute_capability.replace(".", "")
    return capabilities is None or getattr(capabilities, name, None) is not None


def _in_words(gpu: nvidia.Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.compute_capability})"


def identity(backend: str | None) -> list[str | None]:
    """All that a plan made here depends on beside its graph: backend, its version, and the GPU."""
    if backend is None:
        return []
    gpu = nvidia.gpu()
    here = [gpu.name, gpu.compute_capability] if gpu else [None, None]
    return [backend, nvidia.version(backend), *here]


@dataclass(frozen=True)
class Compiled:
    """A serialised engine and what it belongs to."""

    data: bytes
    version: str
    gpu: nvidia.Gpu | None

    def plan(self, backend: str, graph: str, max_batch: int, model_sha256: str) -> Plan:
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
) -> Compiled:
    """Compile a graph for batches of 1 to `max_batch` pictures of `input_shape` (C, H, W).

    cache: folder of TensorRT's timing cache. Raises `MissingPackage`, or `CompileError` with what
    TensorRT said. Ctrl-C stops the build at its next step.
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
            f"{graph} has {network.num_inputs} inputs, an engine has one",
            "build the engine again: edge build CHECKPOINT",
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace_bytes())
    # TensorRT-RTX would else allocate while it runs, and then a batch cannot be a CUDA graph.
    fixed = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if fixed is not None:
        config.set_flag(fixed)
    if gpu is not None:
        _only_for(gpu, trt, config)
    name = network.get_input(0).name
    profile = builder.create_optimization_profile()
    shapes = [(batch, *input_shape) for batch in (1, max_batch, max_batch)]
    profile.set_shape(name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(
            f"{backend} refuses the optimization profile {shapes} for {name} ({log.last})",
            "choose another --max-batch",
        )
    timing_path = cache / f"timing-{trt.__version__}-{gpu.name if gpu else 'none'}.bin"
    # TensorRT-RTX times nothing while it builds.
    timing = _use_timing_cache(config, timing_path) if backend == "tensorrt" else None
    serialized = _build(trt, builder, network, config, progress)
    if serialized is None:
        raise CompileError(
            f"{backend} {trt.__version__} cannot build a plan ({log.last})",
            "with too little memory close other programs or lower --max-batch; see edge doctor",
        )
    if timing is not None:
        write_bytes(timing_path, bytes(timing.serialize()))
    return Compiled(bytes(serialized), str(trt.__version__), gpu)


def _strongly_typed(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _only_for(gpu: nvidia.Gpu, trt: Any, settings: Any) -> None:
    """Have TensorRT-RTX make a plan for this GPU alone, and not for several; TensorRT always does.

    Raises `CompileError` when it makes none for it.
    """
    capabilities = getattr(trt, "ComputeCapability", None)
    if capabilities is None:
        return
    settings.num_compute_capabilities = 1
    if not settings.set_compute_capability(capabilities.CURRENT, 0):
        raise CompileError(
            f"TensorRT-RTX {trt.__version__} makes no plan for {_in_words(gpu)}",
            "edge run has --backend onnxruntime-cuda, which needs no plan; see edge doctor",
        )


def _workspace_bytes() -> int:
    """Half of the free memory: a board shares it between CPU and GPU, and builds in it too."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    return 1 << 30


def _use_timing_cache(config: Any, path: Path) -> Any:
    """Start from the kernel timings of earlier builds; a cache of another machine is ignored."""
    for start in (path.read_bytes() if path.is_file() else b"", b""):
        timing = config.create_timing_cache(start)
        # Refused, it would stay as it is: nothing is learnt for the next build.
        if timing is not None and config.set_timing_cache(timing, False):
            return timing
    return None


def _logger(trt: Any) -> Any:
    """A logger that keeps the last error, for the message that people see."""
    levels = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it gave no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.last = message

    return Log()


def _build(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    """Build on a thread of its own, so that Ctrl-C is heard here and not inside TensorRT."""
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
        except BaseException as error:  # handed to the thread that waits
            failure.append(error)
        finally:
            finished.set()

    # An event, not Thread.join: interrupted by Ctrl-C, a join of Python 3.10 to 3.12 takes a
    # running thread for ended (bpo-45274).
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
