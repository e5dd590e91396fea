"""The protocols around the loop: the engine it drives, the sinks it feeds, the results between."""

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
    """What a result says about its frame."""

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes, or all: (class_id, label, confidence), best first."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and what the engine says about it.

    age_ms      milliseconds from the moment the picture was at the source to this result
    latency_ms  milliseconds from the moment the frame was taken from the source to this result
    time        seconds since 1970 at which the picture was at the source, by the wall clock of
                this result: what waits for a broker or a disk still tells how old it is
    """

    frame: Frame
    prediction: Prediction
    age_ms: float
    latency_ms: float
    time: float


class Sink:
    """Takes results, and changes of state; the loop calls it on one thread, and closes it once.

    What takes long is done on a thread of the sink's own: the engine waits for `write`. A frame
    that is kept holds its camera's buffer, of which there are few.
    """

    def write(self, result: Result) -> None:
        """Take a result. A BrokenPipeError ends the run: nobody reads any more."""

    def changed(self, transition: Transition) -> None:
        """A source is in another state now; that it plays comes before its first result."""

    def close(self) -> None:
        """The run is over. Everything taken is written, or counted as lost, before this returns."""


class Engine(Protocol):
    """What the loop needs of an engine. Places are filled on several threads at once."""

    @property
    def depth(self) -> int:
        """How many batches may be under way at once."""

    @property
    def batch(self) -> int:
        """How many frames it is worth to put into one batch."""

    @property
    def frame_path(self) -> str: ...

    @property
    def backend(self) -> str: ...

    def slot(self) -> Any:
        """A new `Slot` of this engine's kind."""

    def start(self, slots: Sequence[Any]) -> None:
        """Begin to infer a batch; one place for each of its frames."""

    def finish(self) -> Tensor:
        """Wait for the oldest batch that was started: logits float32 [N, classes]."""

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds within the batch finished last, by stage; may be empty."""

    def network_input(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last: [3, H, W]."""

    def predict(self, logits: Tensor) -> Prediction:
        """Logits of one picture, float32 [classes] -> what they mean."""
