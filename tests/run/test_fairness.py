"""Cameras that are due together, beside an engine that is slow: each gets its share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from edge.run import loop
from edge.sources.camera import Camera, with_unique_names
from edge.sources.opening import feed

CAMERAS, SECONDS = 4, 4
BATCH = 0.07  # seconds that the engine takes for one picture


@pytest.mark.parametrize("asked", [{"max_fps": 2.0}, {"every": 15}], ids=["max-fps", "every"])
def test_cameras_that_are_thinned_out_are_all_labelled(engine: Any, asked: dict[str, Any]) -> None:
    """Of 14 pictures a second that it can label, 8 are wanted."""
    infer = engine.infer

    def slow(batch: np.ndarray) -> np.ndarray:
        time.sleep(BATCH)
        return infer(batch)

    engine.infer = slow
    source = "test://black?width=320&height=240&fps=30"
    cameras = with_unique_names(Camera(source, **asked) for _ in range(CAMERAS))
    frames = CAMERAS * 2 * SECONDS
    summary = loop.run(engine, [feed(camera) for camera in cameras], [], frames=frames)
    labelled = [one["frames"] for one in summary.sources.values()]
    assert sum(labelled) == frames
    assert min(labelled) >= SECONDS, labelled
