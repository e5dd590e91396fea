"""Cadence: a gap is several of the source's own intervals, whatever its frame rate."""

from __future__ import annotations

import numpy as np
import pytest

from edge.outputs.record.cadence import Cadence, frame_time
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame


def cadence_after(interval: float, frames: int = 20) -> tuple[Cadence, float]:
    """The cadence after some regular frames, and the time of the last one."""
    cadence = Cadence()
    for number in range(frames):
        cadence.broken(number * interval)
    return cadence, (frames - 1) * interval


@pytest.mark.parametrize("rate", [60, 30, 5, 1, 0.1])
def test_regular_frames_have_no_gap_at_any_rate(rate: float) -> None:
    cadence = Cadence()
    broken = [cadence.broken(number / rate) for number in range(50)]
    assert broken[0], "the first frame counts as after a gap"
    # The second frame of a very slow camera may count as a gap: its rate is not known yet.
    assert not any(broken[2:])


def test_less_than_a_second_is_not_a_gap() -> None:
    cadence, last = cadence_after(1 / 30)
    assert not cadence.broken(last + 0.9)
    cadence, last = cadence_after(1 / 30)
    assert cadence.broken(last + 1.1)


def test_more_than_five_intervals_of_a_slow_camera_are_a_gap() -> None:
    cadence, last = cadence_after(2.0)
    assert not cadence.broken(last + 9.9)
    cadence, last = cadence_after(2.0)
    assert cadence.broken(last + 10.1)


def test_a_regular_frame_after_a_gap_is_no_gap() -> None:
    cadence, last = cadence_after(0.1)
    assert cadence.broken(last + 60)
    assert not cadence.broken(last + 60.1)


def test_a_new_rate_is_learned() -> None:
    cadence, last = cadence_after(1 / 30)
    broken = [cadence.broken(last + 3 * number) for number in range(1, 20)]
    assert broken[0]
    assert not any(broken[5:])


def test_time_that_decreases_is_a_gap() -> None:
    cadence, _ = cadence_after(0.1)
    assert cadence.broken(0.0)
    assert not cadence.broken(0.1)


def test_frame_time_is_stream_time_or_capture_time() -> None:
    surface = Surface.from_rgb(np.zeros((1, 1, 3), np.uint8))
    assert frame_time(Frame("a", 0, 2.5, 1000.0, "system", surface)) == 2.5
    assert frame_time(Frame("a", 0, None, 1000.0, "system", surface)) == 1000.0
    live = Frame("a", 0, 2.5, 1000.0, "system", surface, live=True)
    assert frame_time(live) == 1000.0, "a live source's clock may be set, or stand still"
