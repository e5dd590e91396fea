"""Where a frame lies between the reader that brings it and the engine that labels it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.sources.frame import Frame

__all__ = ["QueuedFrame", "Slot"]


class Slot(Protocol):
    """Room for one frame, between the reader that fills it and the engine."""

    def put(self, frame: Frame) -> None:
        """Preprocess the frame, or make it ready for the GPU and keep it until `clear`."""

    def clear(self) -> None:
        """Let go of the frame: its buffer goes back to the camera's few."""


@dataclass(frozen=True)
class QueuedFrame:
    """A frame and its place; after `expires` it is no longer current.

    prepared  it lies in its place, ready for the engine; else see `Reader.prepare`
    """

    frame: Frame
    slot: Slot
    taken: float
    expires: float
    prepared: bool
