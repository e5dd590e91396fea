"""Work on a thread of its own: whoever gives it need not wait; what is too much is left out then.

Nor does it stop whoever gives it: whatever goes wrong is said and counted, and the work goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from edge.outputs.record.fault_log import FaultLog

__all__ = ["Worker", "lower_thread_priority"]

Item = TypeVar("Item")

_NAP = 0.1  # seconds between looks at whether a wait is over
_HANGS = 20.0  # seconds without an end after which work is no longer waited for
_NICENESS = 5  # a third of the processor, against as many threads that infer and never wait


class Worker(Generic[Item]):
    """Works on items in the order in which they came, until it is closed.

    lost  items that gave way to newer ones before they were worked on, that failed, or that were
          left at the end
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Item], None],
        room: int,
        patience: float,
        warn: Callable[[str], None],
    ):
        """work: what it raises is told to `warn`, once for each key until it works again.

        room: so many items of one key wait at most. patience: seconds that `close` waits.
        """
        self.lost = 0
        self._name = name
        self._work = work
        self._room = room
        self._patience = patience
        self._warn = warn
        self._fault_log = FaultLog(warn)
        self._waiting: deque[tuple[str, Item]] = deque()
        self._counts: Counter[str] = Counter()
        self._condition = threading.Condition()
        self._closed = False
        self._hangs = False  # the work that is being done has no end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, key: str, item: Item, until: threading.Event | None = None) -> None:
        """Leave an item; when too many of this key wait, the oldest of them is lost.

        until: wait for room first, at most until this is set, and not for work that hangs.
        """
        with self._condition:
            if until is not None:
                self._await_room(key, until)
            if self._counts[key] == self._room:
                del self._waiting[next(i for i, (of, _) in enumerate(self._waiting) if of == key)]
                self._counts[key] -= 1
                self.lost += 1
            self._waiting.append((key, item))
            self._counts[key] += 1
            self._condition.notify_all()

    def _await_room(self, key: str, until: threading.Event) -> None:
        deadline = time.monotonic() + _HANGS
        while self._counts[key] == self._room and not self._hangs and not until.is_set():
            self._condition.wait(_NAP)
            self._hangs = time.monotonic() > deadline

    def close(self) -> None:
        """Work on what waits, and end the thread; what its patience is too short for is lost."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(self._patience)
        with self._condition:
            self.lost += len(self._waiting)
            self._waiting.clear()
        if self._thread.is_alive():  # and is left behind: the process ends without it
            self._warn(
                f"{self._name}: the rest could not be written within {self._patience:.0f} s; "
                "look at the disk: dmesg"
            )

    def _run(self) -> None:
        lower_thread_priority()
        while True:
            with self._condition:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if not self._waiting:
                    return
                key, item = self._waiting.popleft()
                self._counts[key] -= 1
                self._hangs = False
                self._condition.notify_all()
            try:
                self._work(item)
            except Exception as error:  # of a codec, a library, the system: the labels go on
                with self._condition:
                    self.lost += 1
                unforeseen = RuntimeError(f"{self._name}: {error!r}")
                self._fault_log.failed(key, unforeseen, "what fails is left out, and counted")
            else:
                self._fault_log.works(key, f"{self._name}: it works")
            del item  # or its frame would be held while the next is waited for


def lower_thread_priority() -> None:
    """Let the other threads of this process go first; on Linux niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
