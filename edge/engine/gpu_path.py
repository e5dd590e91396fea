"""The frame's way on the GPU: a kernel reads the frame where it lies, the network follows at once.

    a reader's thread    holds a frame that the GPU reads, or copies it to memory that the GPU reads
    the caller's thread  starts a lane: kernel, network and the copy of the logits, one CUDA graph

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
_ALIGNMENT = 256  # bytes: where each plane begins
# What a lane's work is made of, in this order.
_STAGES = ("gpu_preprocess", "gpu_network", "gpu_download")


class GpuSlot:
    """Room for one frame: the frame itself, or a copy in pinned memory that the GPU reads."""

    def __init__(self, device: Device):
        self._device = device
        self._layout: Layout | None = None
        self._memory: Mapped | None = None
        self._planes: tuple[npt.NDArray[np.uint8], ...] = ()
        self._copy: DeviceSurface | None = None
        self._held: Frame | None = None  # one in the GPU's memory, while the GPU may read it

    @property
    def surface(self) -> DeviceSurface:
        """What the kernel reads."""
        if self._held is not None and isinstance(self._held.surface, DeviceSurface):
            return self._held.surface
        assert self._copy is not None
        return self._copy

    def put(self, frame: Frame) -> None:
        """Hold a frame in the GPU's memory until `clear`; one in system memory is copied, once.

        Raises SourceError when no memory is left for it: there is for those of other sources.
        """
        self._held = frame if isinstance(frame.surface, DeviceSurface) else None
        if isinstance(frame.surface, Surface):
            if frame.surface.layout != self._layout:
                try:
                    self._allocate(frame.surface)
                except OutOfMemory as error:
                    raise SourceError(
                        f"no memory is left for pictures of {frame.source} ({error.problem})",
                        "have fewer cameras, or smaller pictures",
                    ) from error
            for target, source in zip(self._planes, frame.surface.planes, strict=True):
                np.copyto(target, source)

    def clear(self) -> None:
        """Let go of the frame, when the batch that read it is finished."""
        self._held = None

    def _allocate(self, surface: Surface) -> None:
        """Memory for pictures of this layout; rows are as long as they need be."""
        shapes = [plane.shape for plane in surface.planes]
        starts = np.cumsum(
            [0, *(-(-rows * columns // _ALIGNMENT) * _ALIGNMENT for rows, columns in shapes)]
        )
        with self._device as device:
            if self._memory is not None:
                self._layout = None  # until there is other memory
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
    """One batch on its way: a stream, an execution, and a graph for each size of batch."""

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
            with suppress(MissingPackage):  # then there are no graphs, and that is said
                self._marks = tuple(device.mark() for _ in range(len(_STAGES) + 1))
        self._shape = runner.input_shape
        self._seen: Tensor | None = None  # pinned, when it is asked for
        self._replays: dict[int, _Replay] = {}  # by size of batch
        self._count = self._shared = 0
        self.stages_ms: dict[str, float] = {}  # of the batch finished last

    def start(self, slots: Sequence[GpuSlot]) -> None:
        self._check_batch(len(slots))
        surfaces = [slot.surface for slot in slots]
        needed = max(
            self._preprocess.fill(record, surface)
            for record, surface in zip(self._records, surfaces, strict=False)
        )
        # It only grows, so that cameras of several sizes share one graph.
        self._count, self._shared = len(slots), max(needed, self._shared)
        with self._device:
            graph = self._replayed()
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
            if self._seen is None:
                self._seen = device.pinned(self._shape)
            self._stream.download(self._seen, self._run.input + self._seen.nbytes * index)
            self._stream.wait()
        seen: Tensor = self._seen.copy()
        return seen

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

    def _replayed(self) -> Graph | None:
        """The graph of batches of this size, made at the second of them.

        TensorRT must have run once with a shape before its work is captured.
        """
        replay = self._replays.get(self._count)
        if replay is None or replay.shared != self._shared:
            if replay is not None and replay.graph is not None:
                self._device.free(replay.graph)
            self._replays[self._count] = _Replay(self._shared)
            return None
        if not replay.tried:
            replay.tried = True
            try:
                self._run.check_capture(self._count)
                with self._stream.capture() as graph:
                    self._enqueue()
                replay.graph = graph
            except NoCapture as reason:
                self._info(f"each batch is enqueued anew, without a CUDA graph: {reason}")
        return replay.graph


@dataclass
class _Replay:
    """Batches of one size; `shared` bytes of shared memory are part of their graph."""

    shared: int
    tried: bool = False
    graph: Graph | None = None


class GpuPath:
    """Starts batches on one lane while the other works. Belongs to one thread, but for places.

    batch      the largest that the engine takes
    stages_ms  of the batch finished last: gpu, what the GPU took from the frames to the logits;
               with cuda-bindings gpu_preprocess, gpu_network and gpu_download, its parts, too
    """

    def __init__(
        self, runner: Runner, spec: Preprocess, info: Callable[[str], None], depth: int = 2
    ):
        """say: is told, once, of what is slower than it could be."""
        self.depth, self.batch = depth, runner.batch
        self._device = runner.device
        preprocess = CudaPreprocessor(spec, self._device, info=info)
        info = lru_cache(maxsize=None)(info)  # the lanes find out one after the other
        self._lanes = deque(_Lane(self._device, runner, preprocess, info) for _ in range(depth))
        self._busy: deque[_Lane] = deque()
        self.stages_ms: dict[str, float] = {}

    def slot(self) -> GpuSlot:
        """Room for one frame; any number may be made."""
        return GpuSlot(self._device)

    def start(self, slots: Sequence[GpuSlot]) -> None:
        """Begin a batch; `depth` may be under way. Its frames must live until it is finished.

        Raises `BackendError` for more frames than the engine takes.
        """
        lane = self._lanes.popleft()
        lane.start(slots)
        self._busy.append(lane)

    def finish(self) -> Tensor:
        """Logits, float32 [N, classes], of the oldest batch that was started."""
        lane = self._busy.popleft()
        self._lanes.append(lane)
        logits = lane.finish()
        self.stages_ms = lane.stages_ms
        return logits

    def network_input(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last.

        float32 [3, height, width]. No batch may have been started since.
        """
        return self._lanes[-1].network_input(index)
