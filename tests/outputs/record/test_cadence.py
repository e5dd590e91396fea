"""A camera is away when it misses many of its own intervals, whatever its rate."""

from __future__ import annotations

import numpy as np
import pytest

from edge.outputs.record.cadence import Cadence, frame_time
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame


def fed(interval: float, frames: int = 20) -> tuple[Cadence, float]:
    """A rhythm after some frames, and the moment of the last."""
    cadence = Cadence()
    for number in range(frames):
        cadence.broken(number * interval)
    return cadence, (frames - 1) * interval


@pytest.mark.parametrize("rate", [60, 30, 5, 1, 0.1])
def test_regular_frames_are_never_away_at_any_rate(rate: float) -> None:
    cadence = Cadence()
    broken = [cadence.broken(number / rate) for number in range(50)]
    assert broken[0], "the first has nothing before it"
    # Of a very slow camera the second may be taken for one that was away: its rate is not known.
    assert not any(broken[2:])


def test_a_hiccup_of_less_than_a_second_is_not_away() -> None:
    cadence, last = fed(1 / 30)
    assert not cadence.broken(last + 0.9)
    cadence, last = fed(1 / 30)
    assert cadence.broken(last + 1.1)


def test_five_intervals_of_a_slow_camera_are_not_away_and_more_are() -> None:
    cadence, last = fed(2.0)
    assert not cadence.broken(last + 9.9)
    cadence, last = fed(2.0)
    assert cadence.broken(last + 10.1)


def test_after_a_gap_a_regular_frame_goes_on() -> None:
    cadence, last = fed(0.1)
    assert cadence.broken(last + 60)
    assert not cadence.broken(last + 60.1)


def test_a_new_rate_is_learned() -> None:
    cadence, last = fed(1 / 30)
    broken = [cadence.broken(last + 3 * number) for number in range(1, 20)]
    assert broken[0]
    assert not any(broken[5:])


def test_time_that_runs_backwards_is_a_new_stream() -> None:
    cadence, _ = fed(0.1)
    assert cadence.broken(0.0)
    assert not cadence.broken(0.1)


def test_a_frame_is_placed_by_stream_time_and_without_one_by_its_capture() -> None:
    surface = Surface.from_rgb(np.zeros((1, 1, 3), np.uint8))
    assert frame_time(Frame("a", 0, 2.5, 1000.0, "system", surface)) == 2.5
    assert frame_time(Frame("a", 0, None, 1000.0, "system", surface)) == 1000.0
    live = Frame("a", 0, 2.5, 1000.0, "system", surface, live=True)
    assert frame_time(live) == 1000.0, "its clock may be set, or stand still"
