"""Inference of frames on the CPU: a slot is a tensor, which the reader's thread prepares.

Used by the onnxruntime backend.
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
    """Memory for one frame: its tensor, float32 [1, 3, height, width], allocated once."""

    def __init__(self, prepare: Prepare, shape: tuple[int, int, int]):
        self._prepare = prepare
        self.tensor: Tensor = np.empty((1, *shape), np.float32)

    def put(self, frame: Frame) -> None:
        """Prepare the frame on this thread. Raises `BackendError` if it is in the GPU's memory."""
        if not isinstance(frame.surface, Surface):
            raise BackendError(
                f"frame {frame.number} of {frame.source} is in the GPU's memory ({frame.path}), "
                "but this engine runs on the CPU",
                "end the pipeline in system memory, or compile a plan: edge compile ENGINE",
            )
        self._prepare(frame.surface, self.tensor[0])

    def clear(self) -> None:
        """Nothing to do: the frame is not kept."""


class CpuPath:
    """Prepares frames on the readers' threads; infers on the thread that calls `finish`."""

    depth = 1  # a second batch gains nothing: the CPU is busy with the first
    batch = 1  # nor does a larger one: its first frame would wait for the others
    stages_ms: ClassVar[dict[str, float]] = {}  # no stages of its own: the loop measures the total

    def __init__(
        self,
        prepare: Prepare,
        infer: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
    ):
        """infer: float32 [N, *shape] -> logits float32 [N, classes]."""
        self._prepare, self._infer, self._shape = prepare, infer, shape
        self._started: deque[Sequence[CpuSlot]] = deque()
        self._input: Tensor | None = None

    def slot(self) -> CpuSlot:
        """A new slot; there may be any number."""
        return CpuSlot(self._prepare, self._shape)

    def start(self, slots: Sequence[CpuSlot]) -> None:
        """Add a batch. Its slots must not be filled again before it is finished."""
        self._started.append(slots)

    def finish(self) -> Tensor:
        """Infer the oldest batch that was started. Returns its logits, float32 [N, classes]."""
        slots = self._started.popleft()
        tensors = [slot.tensor for slot in slots]
        self._input = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        return self._infer(self._input)

    def network_input(self, index: int) -> Tensor:
        """A copy of the network's input for frame `index` of the batch finished last.

        float32 [3, height, width]. The frame's slot must not have been filled again.
        """
        assert self._input is not None
        tensor: Tensor = self._input[index].copy()
        return tensor
