"""Worker: processes items in order, has a bounded queue per key, and reports failures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from edge.outputs.record import worker as module
from edge.outputs.record.worker import Worker


class Slow:
    """Work that blocks until `go` is set, and remembers which items it processed."""

    def __init__(self) -> None:
        self.processed: list[int] = []
        self.started, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, item: int) -> None:
        self.started.release()
        assert self.go.wait(30)
        self.processed.append(item)


def start(
    work: Callable[[int], None],
    capacity: int,
    close_timeout: float = 60.0,
    warn: Callable[[str], None] = print,
) -> Worker[int]:
    return Worker("test", work, capacity, close_timeout, warn)


def test_close_returns_after_all_items_were_processed_in_order() -> None:
    processed: list[int] = []
    worker = start(processed.append, 100)
    for number in range(100):
        worker.put("a", number)
    worker.close()
    assert processed == list(range(100))
    assert worker.lost == 0


def test_a_full_queue_loses_the_oldest_item_of_the_same_key_and_counts_it() -> None:
    slow = Slow()
    worker = start(slow, 2)
    worker.put("b", 0)
    assert slow.started.acquire(timeout=30)
    worker.put("b", 1)
    for number in (11, 12, 13, 14):
        worker.put("a", number)
    slow.go.set()
    worker.close()
    assert slow.processed == [0, 1, 13, 14]
    assert worker.lost == 2


def test_exceptions_are_reported_once_and_counted_and_the_next_item_is_processed() -> None:
    warnings: list[str] = []

    def divide(item: int) -> None:
        processed.append(1 // item)

    processed: list[int] = []
    worker = start(divide, 10, warn=warnings.append)
    for item in (0, 0, 1, 0):
        worker.put("a", item)
    worker.close()
    assert processed == [1]
    assert worker.lost == 3
    failure = (
        "test: ZeroDivisionError('integer division or modulo by zero'); failed items are dropped"
    )
    assert [text.startswith(failure) for text in warnings] == [True, False, True]
    assert warnings[1] == "test: works again after 2 failures"


def test_work_that_hangs_does_not_block_close_and_is_reported() -> None:
    warnings: list[str] = []
    slow = Slow()
    worker = start(slow, 2, close_timeout=0.1, warn=warnings.append)
    worker.put("a", 0)
    assert slow.started.acquire(timeout=30)
    worker.put("a", 1)
    worker.close()
    assert worker.lost == 1
    assert ["test: the last items could not be written" in text for text in warnings] == [True]
    slow.go.set()


def test_put_can_wait_for_a_free_place_but_not_for_work_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HANG_TIMEOUT", 0.5)
    slow, never = Slow(), threading.Event()
    worker = start(slow, 2)
    worker.put("a", 0)
    assert slow.started.acquire(timeout=30)
    for number in range(1, 100):  # if each waited half a second, this would take too long
        worker.put("a", number, never)
    assert worker.lost == 97
    slow.go.set()
    assert slow.started.acquire(timeout=30)
    for number in range(100, 200):
        worker.put("a", number, never)
    worker.close()
    assert slow.processed == [0, *range(98, 200)], "put waits again once the work makes progress"
    assert worker.lost == 97


def test_the_work_runs_at_a_lower_priority_than_inference() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    niceness: list[int] = []

    def observe(_: int) -> None:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    worker = start(observe, 1)
    worker.put("a", 1)
    worker.close()
    assert niceness == [max(own, 5)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
