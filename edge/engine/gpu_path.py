"""Inference of frames on the GPU: a kernel reads the frames in place, and the network follows.

    a reader's thread    holds a frame in GPU memory, or copies one to memory that the GPU reads
    the caller's thread  starts a lane: kernel, network and download of the logits, one CUDA graph

Two lanes take turns, so that the GPU has the next batch before the logits of the last are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edge.engine.runner import Runner
from edge.errors import MissingPackage, SourceError
from edge.gpu.bindings import Graph, Mark, NoCapture, OutOfMemory
from edge.gpu.device import Device, Mapped
from edge.preprocess.cuda import CudaPreprocessor
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import DeviceSurface, Layout, Surface
from edge.sources.frame import Frame

__all__ = ["GpuPath", "GpuSlot"]

Tensor = npt.NDArray[np.float32]
_ALIGNMENT = 256  # bytes, of the start of each plane
# The stages of a lane's work, in this order.
_STAGES = ("gpu_preprocess", "gpu_network", "gpu_download")


class GpuSlot:
    """Memory for one frame: the frame itself, or a copy in pinned memory that the GPU reads."""

    def __init__(self, device: Device):
        self._device = device
        self._layout: Layout | None = None
        self._memory: Mapped | None = None
        self._planes: tuple[npt.NDArray[np.uint8], ...] = ()
        self._copy: DeviceSurface | None = None
        self._held: Frame | None = None  # a frame in GPU memory, while the GPU may read it

    @property
    def surface(self) -> DeviceSurface:
        """The surface that the kernel reads."""
        if self._held is not None and isinstance(self._held.surface, DeviceSurface):
            return self._held.surface
        assert self._copy is not None
        return self._copy

    def put(self, frame: Frame) -> None:
        """Hold a frame in GPU memory until `clear`; copy one in system memory.

        Raises `SourceError`, which affects this source only, if there is no memory for the copy.
        """
        self._held = frame if isinstance(frame.surface, DeviceSurface) else None
        if isinstance(frame.surface, Surface):
            if frame.surface.layout != self._layout:
                try:
                    self._allocate(frame.surface)
                except OutOfMemory as error:
                    raise SourceError(
                        f"no memory is left for frames of {frame.source} ({error.problem})",
                        "use fewer cameras, or smaller frames",
                    ) from error
            for target, source in zip(self._planes, frame.surface.planes, strict=True):
                np.copyto(target, source)

    def clear(self) -> None:
        """Release the frame; call it when the batch that reads it is finished."""
        self._held = None

    def _allocate(self, surface: Surface) -> None:
        """Allocate memory for frames of this layout, without padding of the rows."""
        shapes = [plane.shape for plane in surface.planes]
        starts = np.cumsum(
            [0, *(-(-rows * columns // _ALIGNMENT) * _ALIGNMENT for rows, columns in shapes)]
        )
        with self._device as device:
            if self._memory is not None:
                self._layout = None  # in case the allocation fails
                device.free(self._memory)
            self._memory = device.mapped(int(starts[-1]))
        memory, address = self._memory
        self._planes = tuple(
            memory[start : start + rows * columns].reshape(rows, columns)
            for start, (rows, columns) in zip(starts.tolist(), shapes, strict=False)
        )
        self._copy = DeviceSurface(
            surface.layout,
            tuple(address + start for start in starts[:-1].tolist()),
            tuple(columns for _, columns in shapes),
        )
        self._layout = surface.layout


class _Lane:
    """One batch in flight: a stream, an execution, and a CUDA graph for each batch size."""

    def __init__(
        self,
        device: Device,
        runner: Runner,
        preprocess: CudaPreprocessor,
        info: Callable[[str], None],
    ):
        self._device, self._preprocess, self._info = device, preprocess, info
        with device:
            self._stream = device.new_stream()
            self._began, self._done = device.event(timing=True), device.event(timing=True)
            self._run, self._check_batch = runner.execution(self._stream), runner.check_batch
            self._records, self._address = preprocess.records(self._run.batch)
            self._marks: tuple[Mark, ...] = ()
            with suppress(MissingPackage):  # without cuda-bindings: no graphs, which is reported
                self._marks = tuple(device.mark() for _ in range(len(_STAGES) + 1))
        self._shape = runner.input_shape
        self._input_copy: Tensor | None = None  # pinned; allocated on the first request
        self._captured: dict[int, _Captured] = {}  # by batch size
        self._count = self._shared = 0
        self.stages_ms: dict[str, float] = {}  # of the batch finished last

    def start(self, slots: Sequence[GpuSlot]) -> None:
        self._check_batch(len(slots))
        surfaces = [slot.surface for slot in slots]
        needed = max(
            self._preprocess.fill(record, surface)
            for record, surface in zip(self._records, surfaces, strict=False)
        )
        # The shared memory only grows, so that frames of all sizes use one graph.
        self._count, self._shared = len(slots), max(needed, self._shared)
        with self._device:
            graph = self._graph()
            self._began.record(self._stream)
            if graph is None:
                self._enqueue()
            else:
                graph.launch(self._stream)
            self._done.record(self._stream)

    def finish(self) -> Tensor:
        with self._device:
            self._done.wait()
            self.stages_ms = {"gpu": self._done.ms_since(self._began)}
            for stage, (start, end) in zip(_STAGES, pairwise(self._marks), strict=False):
                self.stages_ms[stage] = end.ms_since(start)
        logits: Tensor = self._run.logits[: self._count].copy()
        return logits

    def network_input(self, index: int) -> Tensor:
        with self._device as device:
            if self._input_copy is None:
                self._input_copy = device.pinned(self._shape)
            offset = self._input_copy.nbytes * index
            self._stream.download(self._input_copy, self._run.input + offset)
            self._stream.wait()
        tensor: Tensor = self._input_copy.copy()
        return tensor

    def _enqueue(self) -> None:
        address, count = self._address, self._count
        self._mark(0)
        self._preprocess.launch(self._stream, address, count, self._shared, self._run.input)
        self._mark(1)
        self._run.enqueue(count)
        self._mark(2)
        self._run.download(count)
        self._mark(3)

    def _mark(self, number: int) -> None:
        if self._marks:
            self._marks[number].set(self._stream)

    def _graph(self) -> Graph | None:
        """The graph for batches of this size, captured at the second such batch.

        TensorRT must have run once with a shape before its work can be captured.
        """
        captured = self._captured.get(self._count)
        if captured is None or captured.shared != self._shared:
            if captured is not None and captured.graph is not None:
                self._device.free(captured.graph)
            self._captured[self._count] = _Captured(self._shared)
            return None
        if not captured.tried:
            captured.tried = True
            try:
                self._run.check_capture(self._count)
                with self._stream.capture() as graph:
                    self._enqueue()
                captured.graph = graph
            except NoCapture as reason:
                self._info(f"each batch is enqueued separately, without a CUDA graph: {reason}")
        return captured.graph


@dataclass
class _Captured:
    """The graph for batches of one size, with `shared` bytes of the kernel's shared memory."""

    shared: int
    tried: bool = False
    graph: Graph | None = None


class GpuPath:
    """Starts batches on one lane while the other works. One thread only, except for the slots.

    batch      the largest batch that the engine takes
    stages_ms  of the batch finished last: gpu, the GPU's time from the frames to the logits; with
               cuda-bindings also its parts gpu_preprocess, gpu_network and gpu_download
    """

    def __init__(
        self, runner: Runner, spec: Preprocess, info: Callable[[str], None], depth: int = 2
    ):
        """info: called with a text, once for each thing that is slower than it could be."""
        self.depth, self.batch = depth, runner.batch
        self._device = runner.device
        preprocess = CudaPreprocessor(spec, self._device, info=info)
        info = lru_cache(maxsize=None)(info)  # each lane would report the same
        self._lanes = deque(_Lane(self._device, runner, preprocess, info) for _ in range(depth))
        self._busy: deque[_Lane] = deque()
        self.stages_ms: dict[str, float] = {}

    def slot(self) -> GpuSlot:
        """A new slot; there may be any number."""
        return GpuSlot(self._device)

    def start(self, slots: Sequence[GpuSlot]) -> None:
        """Start a batch; `depth` may be in flight. Its frames must live until it is finished.

        Raises `BackendError` for more frames than the engine takes.
        """
        lane = self._lanes.popleft()
        lane.start(slots)
        self._busy.append(lane)

    def finish(self) -> Tensor:
        """Wait for the oldest batch in flight. Returns its logits, float32 [N, classes]."""
        lane = self._busy.popleft()
        self._lanes.append(lane)
        logits = lane.finish()
        self.stages_ms = lane.stages_ms
        return logits

    def network_input(self, index: int) -> Tensor:
        """A copy of the network's input for frame `index` of the batch finished last.

        float32 [3, height, width]. Call it before the next batch is started.
        """
        return self._lanes[-1].network_input(index)
