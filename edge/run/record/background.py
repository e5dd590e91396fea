"""Work on a thread of its own: whoever gives it never waits, and what is too much is left out."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Background", "step_back"]

Item = TypeVar("Item")

_JOIN = 30.0  # seconds that the rest gets at the end: a disk that hangs must not hold the exit
_NICENESS = 5  # a third of the processor, against as many threads that infer and never wait


class Background(Generic[Item]):
    """Works on items in the order in which they came, until it is closed.

    lost  items that gave way to newer ones before they were worked on
    """

    def __init__(self, name: str, work: Callable[[Item], None], room: int):
        """work: what `work` raises ends the thread, and is raised by the next `put` or `close`.

        room: so many items of one key wait at most.
        """
        self.lost = 0
        self._work = work
        self._room = room
        self._waiting: deque[tuple[str, Item]] = deque()
        self._counts: Counter[str] = Counter()
        self._bell = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, key: str, item: Item) -> None:
        """Leave an item; when too many of this key wait, the oldest of them is lost."""
        with self._bell:
            self._raise()
            if self._counts[key] == self._room:
                del self._waiting[next(i for i, (of, _) in enumerate(self._waiting) if of == key)]
                self._counts[key] -= 1
                self.lost += 1
            self._waiting.append((key, item))
            self._counts[key] += 1
            self._bell.notify()

    def close(self) -> None:
        """Work on what waits, and end the thread; after half a minute the rest is lost."""
        with self._bell:
            self._closed = True
            self._bell.notify()
        self._thread.join(_JOIN)
        with self._bell:
            self.lost += len(self._waiting)
            self._waiting.clear()
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        step_back()
        while True:
            with self._bell:
                while not self._waiting and not self._closed:
                    self._bell.wait()
                if not self._waiting:
                    return
                key, item = self._waiting.popleft()
                self._counts[key] -= 1
            try:
                self._work(item)
            except BaseException as error:  # raised again, as it is, in the thread that gives
                with self._bell:
                    self._error = error
                return
            del item  # or its frame would be held while the next is waited for


def step_back() -> None:
    """Let the other threads of this process go first; on Linux niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
