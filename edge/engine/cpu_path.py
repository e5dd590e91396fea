"""The frame's way on the CPU: each place is a tensor, prepared by the thread that brings the frame.

An engine that onnxruntime executes goes this way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edge.errors import BackendError
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame

__all__ = ["CpuPath", "CpuSlot"]

Tensor = npt.NDArray[np.float32]
Prepare = Callable[[Surface, Tensor], object]


class CpuSlot:
    """Room for one frame: its tensor, float32 [1, 3, height, width], allocated once."""

    def __init__(self, prepare: Prepare, shape: tuple[int, int, int]):
        self._prepare = prepare
        self.tensor: Tensor = np.empty((1, *shape), np.float32)

    def put(self, frame: Frame) -> None:
        """Prepare the frame, here and now. Raises `BackendError` for one in the GPU's memory."""
        if not isinstance(frame.surface, Surface):
            raise BackendError(
                f"frame {frame.number} of {frame.source} is in the GPU's memory ({frame.path}), "
                "and this engine runs on the CPU",
                "end the pipeline in system memory, or compile a plan: edge compile ENGINE",
            )
        self._prepare(frame.surface, self.tensor[0])

    def clear(self) -> None:
        """Nothing of the frame is kept."""


class CpuPath:
    """Prepares on the threads that bring frames, infers on the one that finishes batches."""

    depth = 1  # nothing is gained by a second batch: the CPU is busy with the first
    batch = 1  # nor by a larger one, which the first of its frames would wait for
    stages_ms: ClassVar[dict[str, float]] = {}  # what the loop measures is all there is

    def __init__(
        self,
        prepare: Prepare,
        infer: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
    ):
        """infer: float32 [N, *shape] -> logits float32 [N, classes]."""
        self._prepare, self._infer, self._shape = prepare, infer, shape
        self._started: deque[Sequence[CpuSlot]] = deque()
        self._seen: Tensor | None = None

    def slot(self) -> CpuSlot:
        """Room for one frame; any number may be made."""
        return CpuSlot(self._prepare, self._shape)

    def start(self, slots: Sequence[CpuSlot]) -> None:
        """Take a batch: its places must not be filled again before it is finished."""
        self._started.append(slots)

    def finish(self) -> Tensor:
        """Logits, float32 [N, classes], of the oldest batch that was started."""
        slots = self._started.popleft()
        tensors = [slot.tensor for slot in slots]
        self._seen = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        return self._infer(self._seen)

    def network_input(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last.

        float32 [3, height, width]. Its place must not have been filled again.
        """
        assert self._seen is not None
        seen: Tensor = self._seen[index].copy()
        return seen
