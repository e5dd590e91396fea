"""A background thread with a bounded queue, for outputs that must not block the loop.

Errors in the work do not reach the caller either: they are reported and counted, and the next item
is processed.
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

_POLL = 0.1  # seconds between checks of whether a wait is over
_HANG_TIMEOUT = 20.0  # seconds after which `put` no longer waits for an item in progress
_NICENESS = 5  # about a third of a core when competing with as many busy inference threads


class Worker(Generic[Item]):
    """Processes items in the order of their arrival, on its own thread, until it is closed.

    lost  number of items that were replaced by newer ones, that failed, or that were left when the
          worker was closed
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Item], None],
        capacity: int,
        close_timeout: float,
        warn: Callable[[str], None],
    ):
        """name: of the thread, and in messages. work: called with each item; an exception is
        reported through `warn`, once per key until the work succeeds again. capacity: number of
        items of one key that may wait. close_timeout: seconds that `close` waits at most.
        """
        self.lost = 0
        self._name = name
        self._work = work
        self._capacity = capacity
        self._close_timeout = close_timeout
        self._warn = warn
        self._fault_log = FaultLog(warn)
        self._queue: deque[tuple[str, Item]] = deque()
        self._counts: Counter[str] = Counter()
        self._condition = threading.Condition()
        self._closed = False
        self._is_stuck = False  # the item in progress exceeded _HANG_TIMEOUT
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, key: str, item: Item, stop: threading.Event | None = None) -> None:
        """Queue an item. If `capacity` items of this key wait already, the oldest one is lost.

        stop: if given, first wait for a free place, until `stop` is set or the work hangs.
        """
        with self._condition:
            if stop is not None:
                self._wait_for_place(key, stop)
            if self._counts[key] == self._capacity:
                oldest = next(i for i, (other, _) in enumerate(self._queue) if other == key)
                del self._queue[oldest]
                self._counts[key] -= 1
                self.lost += 1
            self._queue.append((key, item))
            self._counts[key] += 1
            self._condition.notify_all()

    def _wait_for_place(self, key: str, stop: threading.Event) -> None:
        deadline = time.monotonic() + _HANG_TIMEOUT
        while self._counts[key] == self._capacity and not self._is_stuck and not stop.is_set():
            self._condition.wait(_POLL)
            self._is_stuck = time.monotonic() > deadline

    def close(self) -> None:
        """Process the queue and end the thread; items left after `close_timeout` are lost."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(self._close_timeout)
        with self._condition:
            self.lost += len(self._queue)
            self._queue.clear()
        if self._thread.is_alive():  # a daemon thread: the process exits without it
            self._warn(
                f"{self._name}: the last items could not be written within "
                f"{self._close_timeout:.0f} s; check the disk: dmesg"
            )

    def _run(self) -> None:
        lower_thread_priority()
        while True:
            with self._condition:
                while not self._queue and not self._closed:
                    self._condition.wait()
                if not self._queue:
                    return
                key, item = self._queue.popleft()
                self._counts[key] -= 1
                self._is_stuck = False
                self._condition.notify_all()
            try:
                self._work(item)
            except Exception as error:  # of a codec, a library, the system: labelling continues
                with self._condition:
                    self.lost += 1
                unforeseen = RuntimeError(f"{self._name}: {error!r}")
                self._fault_log.failed(key, unforeseen, "failed items are dropped and counted")
            else:
                self._fault_log.works(key, f"{self._name}: works")
            del item  # otherwise its frame is held while the thread waits for the next item


def lower_thread_priority() -> None:
    """Raise the niceness of the calling thread; on Linux each thread has its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
