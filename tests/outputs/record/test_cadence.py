"""A camera is away when it misses many of its own intervals, whatever its rate."""

from __future__ import annotations

import numpy as np
import pytest

from edge.outputs.record.cadence import Rhythm, moment
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame


def fed(interval: float, frames: int = 20) -> tuple[Rhythm, float]:
    """A rhythm after some frames, and the moment of the last."""
    rhythm = Rhythm()
    for number in range(frames):
        rhythm.broken(number * interval)
    return rhythm, (frames - 1) * interval


@pytest.mark.parametrize("rate", [60, 30, 5, 1, 0.1])
def test_regular_frames_are_never_away_at_any_rate(rate: float) -> None:
    rhythm = Rhythm()
    broken = [rhythm.broken(number / rate) for number in range(50)]
    assert broken[0], "the first has nothing before it"
    # Of a very slow camera the second may be taken for one that was away: its rate is not known.
    assert not any(broken[2:])


def test_a_hiccup_of_less_than_a_second_is_not_away() -> None:
    rhythm, last = fed(1 / 30)
    assert not rhythm.broken(last + 0.9)
    rhythm, last = fed(1 / 30)
    assert rhythm.broken(last + 1.1)


def test_five_intervals_of_a_slow_camera_are_not_away_and_more_are() -> None:
    rhythm, last = fed(2.0)
    assert not rhythm.broken(last + 9.9)
    rhythm, last = fed(2.0)
    assert rhythm.broken(last + 10.1)


def test_after_a_gap_a_regular_frame_goes_on() -> None:
    rhythm, last = fed(0.1)
    assert rhythm.broken(last + 60)
    assert not rhythm.broken(last + 60.1)


def test_a_new_rate_is_learned() -> None:
    rhythm, last = fed(1 / 30)
    broken = [rhythm.broken(last + 3 * number) for number in range(1, 20)]
    assert broken[0]
    assert not any(broken[5:])


def test_time_that_runs_backwards_is_a_new_stream() -> None:
    rhythm, _ = fed(0.1)
    assert rhythm.broken(0.0)
    assert not rhythm.broken(0.1)


def test_a_frame_is_placed_by_stream_time_and_without_one_by_its_capture() -> None:
    surface = Surface.from_rgb(np.zeros((1, 1, 3), np.uint8))
    assert moment(Frame("a", 0, 2.5, 1000.0, "system", surface)) == 2.5
    assert moment(Frame("a", 0, None, 1000.0, "system", surface)) == 1000.0
    live = Frame("a", 0, 2.5, 1000.0, "system", surface, live=True)
    assert moment(live) == 1000.0, "its clock may be set, or stand still"
