"""A batch is what is ready: of whom its frames are, and how many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.run.interfaces import Result
from edge.run.loop import run
from edge.sources.frame import Frame
from tests.scripted_sources import WAIT, Camera, Notes


class Batches:
    """An engine that takes up to four frames, and waits for those that it is told to."""

    def __init__(self, engine: Any, ready: Callable[[], bool]):
        self.sizes: list[int] = []
        start = engine.start

        def counted(slots: Any) -> None:
            self.sizes.append(len(slots))
            deadline = time.monotonic() + WAIT
            while not ready() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)  # the network's work, in which each camera has a frame or more
            start(slots)

        engine.batch, engine.start = 4, counted


def test_what_is_ready_is_one_batch_and_nobody_waits_for_a_slow_camera(
    engine: Any, paint: Any
) -> None:
    fast = [Camera(paint, [[10**6]], f"fast {n}") for n in range(4)]
    slow = Camera(paint, [[1]], "slow")  # one frame, then silence
    batches = Batches(engine, lambda: all(camera.opened for camera in fast))
    summary = run(engine, [camera.feed() for camera in (*fast, slow)], [], frames=120)
    assert max(batches.sizes) == 4
    assert set(batches.sizes) <= {1, 2, 4}, "few sizes: a GPU keeps a graph of each"
    shares = [summary.sources[camera.name]["frames"] for camera in fast]
    assert max(shares) <= 2 * min(shares), "all get their share"
    assert summary.sources["slow"]["frames"] == 1
    assert sum(batches.sizes) == 120


def test_results_of_a_batch_belong_to_their_frames(engine: Any, paint: Any) -> None:
    wrong = []

    def observe(result: Result) -> None:
        if result.prediction.top(1)[0][0] != result.frame.number % 256:
            wrong.append(result)

    cameras = [Camera(paint, [[10**6]], f"{n}") for n in range(4)]
    batches = Batches(engine, lambda: True)
    run(engine, [camera.feed() for camera in cameras], [Notes(observe)], frames=400)
    assert wrong == []
    assert max(batches.sizes) > 1


def test_what_looks_at_frames_sees_what_the_network_saw(engine: Any, paint: Any) -> None:
    """And the engine's own prediction, before it is smoothed."""
    seen, told = [], []

    def observe(frame: Frame, prediction: Any, tensor: Callable[[], np.ndarray]) -> None:
        seen.append((frame.number % 256, prediction.class_id, int(tensor()[0, 0, 0])))

    def smooth(frame: Frame, prediction: Any) -> Any:
        return type(prediction)(7)

    cameras = [Camera(paint, [[10**6]], f"{n}") for n in range(4)]
    Batches(engine, lambda: True)
    notes = Notes(lambda result: told.append(result.prediction.class_id))
    run(engine, [c.feed() for c in cameras], [notes], frames=40, observe=observe, smooth=smooth)
    assert all(number == label == tensor for number, label, tensor in seen)
    assert set(told) == {7}


def test_the_limit_of_frames_holds_for_batches(engine: Any, paint: Any) -> None:
    cameras, notes = [Camera(paint, [[10**6]], f"{n}") for n in range(4)], Notes()
    Batches(engine, lambda: True)
    summary = run(engine, [camera.feed() for camera in cameras], [notes], frames=7)
    assert summary.frames == 7
