"""Slots: the memory in which a reader prepares frames for the engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edge.sources.frame import Frame

__all__ = ["QueuedFrame", "Slot", "SlotPool"]


class Slot(Protocol):
    """Memory for one frame, filled by a reader and read by the engine."""

    def put(self, frame: Frame) -> None:
        """Preprocess the frame, or make it ready for the GPU and hold it until `clear`."""

    def clear(self) -> None:
        """Release the frame, so that its buffer returns to the camera's small pool."""


@dataclass(frozen=True)
class QueuedFrame:
    """A frame that waits for the engine, with its slot.

    read_at   clock seconds at which it was read from its source
    expires   clock seconds after which it is stale
    prepared  it is in its slot already; otherwise `Reader.prepare` puts it there
    """

    frame: Frame
    slot: Slot
    read_at: float
    expires: float
    prepared: bool


class SlotPool:
    """The slots of one reader. All methods may be called from any thread.

    condition: the reader's; it is notified when a slot becomes free.
    """

    def __init__(self, slots: Iterable[Slot], condition: threading.Condition):
        self._free = deque(slots)
        self._count = len(self._free)
        self._condition = condition
        self._closed = self._abandoned = False

    def take(self) -> Slot | None:
        """Wait for a free slot; None once the pool is closed."""
        with self._condition:
            while not self._free and not self._closed:
                self._condition.wait()
            return None if self._closed else self._free.popleft()

    def release(self, slot: Slot) -> None:
        """Clear a slot and make it free."""
        with self._condition:
            slot.clear()
            self._free.append(slot)
            self._condition.notify_all()

    def wait_until_all_free(self) -> None:
        """Wait until the engine has released every slot, or until `abandon`."""
        with self._condition:
            while len(self._free) < self._count and not self._abandoned:
                self._condition.wait()

    def close(self) -> None:
        """Hand out no more slots."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def abandon(self) -> None:
        """Close the pool; slots that are still in use will not be released any more."""
        with self._condition:
            self._abandoned = True
            self.close()

    def free(self) -> list[Slot]:
        """The free slots."""
        return list(self._free)
