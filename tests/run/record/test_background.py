"""Work on a thread of its own: in order, bounded for each key, and never silent when it fails."""

from __future__ import annotations

import os
import threading

import pytest

from edge.run.record import background
from edge.run.record.background import Background


class Slow:
    """Work that waits until it is let go, and remembers what it did."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, item: int) -> None:
        self.begun.release()
        assert self.go.wait(30)
        self.done.append(item)


def test_all_is_done_in_order_before_close_returns() -> None:
    done: list[int] = []
    worker = Background("test", done.append, room=100)
    for number in range(100):
        worker.put("a", number)
    worker.close()
    assert done == list(range(100))
    assert worker.lost == 0


def test_what_is_too_much_is_the_oldest_of_its_key_and_is_counted() -> None:
    slow = Slow()
    worker = Background("test", slow, room=2)
    worker.put("b", 0)
    assert slow.begun.acquire(timeout=30)
    worker.put("b", 1)
    for number in (11, 12, 13, 14):
        worker.put("a", number)
    slow.go.set()
    worker.close()
    assert slow.done == [0, 1, 13, 14]
    assert worker.lost == 2


def test_what_the_work_raises_reaches_whoever_gives_it_more() -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError("a mistake")

    worker = Background("test", fail, room=1)
    worker.put("a", 1)
    worker._thread.join(30)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        worker.put("a", 2)
    worker.close()


def test_what_the_last_work_raises_is_raised_by_close() -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError("a mistake")

    worker = Background("test", fail, room=1)
    worker.put("a", 1)
    with pytest.raises(ZeroDivisionError):
        worker.close()


def test_work_that_hangs_does_not_hold_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_JOIN", 0.1)
    slow = Slow()
    worker = Background("test", slow, room=2)
    worker.put("a", 0)
    assert slow.begun.acquire(timeout=30)
    worker.put("a", 1)
    worker.close()
    assert worker.lost == 1
    slow.go.set()


def test_the_work_steps_back_behind_the_threads_that_infer() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[int] = []

    def look(_: int) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    worker = Background("test", look, room=1)
    worker.put("a", 1)
    worker.close()
    assert seen == [max(own, 5)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
