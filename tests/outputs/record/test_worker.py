"""Work on a thread of its own: in order, bounded for each key, and never silent when it fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from edge.outputs.record import worker as module
from edge.outputs.record.worker import Worker


class Slow:
    """Work that waits until it is let go, and remembers what it did."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, item: int) -> None:
        self.begun.release()
        assert self.go.wait(30)
        self.done.append(item)


def start(
    work: Callable[[int], None],
    room: int,
    patience: float = 60.0,
    warn: Callable[[str], None] = print,
) -> Worker[int]:
    return Worker("test", work, room, patience, warn)


def test_all_is_done_in_order_before_close_returns() -> None:
    done: list[int] = []
    worker = start(done.append, 100)
    for number in range(100):
        worker.put("a", number)
    worker.close()
    assert done == list(range(100))
    assert worker.lost == 0


def test_what_is_too_much_is_the_oldest_of_its_key_and_is_counted() -> None:
    slow = Slow()
    worker = start(slow, 2)
    worker.put("b", 0)
    assert slow.begun.acquire(timeout=30)
    worker.put("b", 1)
    for number in (11, 12, 13, 14):
        worker.put("a", number)
    slow.go.set()
    worker.close()
    assert slow.done == [0, 1, 13, 14]
    assert worker.lost == 2


def test_whatever_the_work_raises_is_said_once_and_counted_and_the_work_goes_on() -> None:
    said: list[str] = []

    def divide(item: int) -> None:
        done.append(1 // item)

    done: list[int] = []
    worker = start(divide, 10, warn=said.append)
    for item in (0, 0, 1, 0):
        worker.put("a", item)
    worker.close()
    assert done == [1]
    assert worker.lost == 3
    why = "test: ZeroDivisionError('integer division or modulo by zero'); what fails is left out"
    assert [text.startswith(why) for text in said] == [True, False, True]
    assert said[1] == "test: it works again, after 2 that failed"


def test_work_that_hangs_does_not_hold_the_exit_and_is_said() -> None:
    said: list[str] = []
    slow = Slow()
    worker = start(slow, 2, patience=0.1, warn=said.append)
    worker.put("a", 0)
    assert slow.begun.acquire(timeout=30)
    worker.put("a", 1)
    worker.close()
    assert worker.lost == 1
    assert ["test: the rest could not be written" in text for text in said] == [True]
    slow.go.set()


def test_whoever_can_wait_does_so_for_room_but_not_for_work_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HANGS", 0.5)
    slow, never = Slow(), threading.Event()
    worker = start(slow, 2)
    worker.put("a", 0)
    assert slow.begun.acquire(timeout=30)
    for number in range(1, 100):  # each would wait half a second
        worker.put("a", number, never)
    assert worker.lost == 97
    slow.go.set()
    assert slow.begun.acquire(timeout=30)
    for number in range(100, 200):
        worker.put("a", number, never)
    worker.close()
    assert slow.done == [0, *range(98, 200)], "work that goes on is waited for again"
    assert worker.lost == 97


def test_the_work_steps_back_behind_the_threads_that_infer() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[int] = []

    def observe(_: int) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    worker = start(observe, 1)
    worker.put("a", 1)
    worker.close()
    assert seen == [max(own, 5)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
