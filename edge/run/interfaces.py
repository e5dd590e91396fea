"""The interfaces of the loop: the engine it drives, the sinks it calls, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.run.status import Transition
from edge.sources.frame import Frame

__all__ = ["Engine", "Prediction", "Result", "Sink", "Tensor"]

Tensor = npt.NDArray[np.float32]


class Prediction(Protocol):
    """The classes of a frame, with confidences."""

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes, or all: (class_id, label, confidence), best first."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and its prediction.

    age_ms      milliseconds from capture at the source to this result
    latency_ms  milliseconds from reading the frame to this result
    time        seconds since 1970 at which the frame was captured, by the wall clock of this
                result: a message that waits for a broker or a disk still carries the right time
    """

    frame: Frame
    prediction: Prediction
    age_ms: float
    latency_ms: float
    time: float


class Sink:
    """An output that receives results and transitions; the loop calls it on one thread.

    Slow work belongs on a thread of the sink's own: the engine waits for `write`. A sink that keeps
    a frame holds one of the few buffers of its camera.
    """

    def write(self, result: Result) -> None:
        """Receive a result. A BrokenPipeError ends the run: nobody reads the output any more."""

    def changed(self, transition: Transition) -> None:
        """A source has changed its state; `playing` is reported before its first result."""

    def close(self) -> None:
        """The run has ended. Before this returns, every result is written or counted as lost."""


class Engine(Protocol):
    """What the loop needs of an engine. Several threads fill slots at the same time."""

    @property
    def depth(self) -> int:
        """How many batches may be in flight at once."""

    @property
    def batch(self) -> int:
        """The largest batch that is worth starting, in frames."""

    @property
    def frame_path(self) -> str: ...

    @property
    def backend(self) -> str: ...

    def slot(self) -> Any:
        """A new `Slot` for this engine."""

    def start(self, slots: Sequence[Any]) -> None:
        """Start a batch: one filled slot per frame."""

    def finish(self) -> Tensor:
        """Wait for the oldest batch in flight: logits, float32 [N, classes]."""

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage of the batch that finished last; may be empty."""

    def network_input(self, index: int) -> Tensor:
        """A copy of the network's input for a frame of the batch finished last: [3, H, W]."""

    def predict(self, logits: Tensor) -> Prediction:
        """The prediction for the logits of one frame, float32 [classes]."""
