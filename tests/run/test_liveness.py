"""How long to wait, and how late is too late."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.run.liveness import Freshness, StallTimeout, backoff
from edge.service.keys import CAMERA
from edge.sources.camera import Thinning


def least(low: float, high: float) -> float:
    return low


def most(low: float, high: float) -> float:
    return high


def test_tries_come_less_often_up_to_one_a_second():
    assert [backoff(n, uniform=most) for n in (1, 2, 3, 4, 5, 99)] == [0.2, 0.4, 0.8, 1, 1, 1]
    assert backoff(99, uniform=least) == 0.5


def test_a_camera_that_refuses_the_password_is_asked_less_and_less():
    """Cameras bar an address after a few wrong passwords."""
    assert backoff(1, refused=True, uniform=most) > 3
    assert backoff(9, refused=True, uniform=most) == 60


def test_a_fast_camera_is_missed_at_once_and_a_slow_one_is_not():
    stall_timeout = StallTimeout(default=10)
    assert stall_timeout.seconds(1 / 30) == 2
    assert stall_timeout.seconds(1 / 10) == 6
    assert stall_timeout.seconds(1.0) == 10
    assert stall_timeout.seconds(60.0) == 180


def test_the_shortest_wait_that_can_be_asked_for_is_no_mere_gap_between_frames():
    """Less is refused where it is asked for: it would be rounded to nothing at all."""
    (least_asked,) = [meta.ge for meta in get_args(CAMERA["stall"].kind)[1:]]
    assert StallTimeout(least_asked).seconds(1 / 100) >= 5 / 100


def test_a_camera_of_one_frame_a_minute_is_found_out_by_waiting_longer():
    """Each time that it sends one frame and is given up, the next wait is twice as long."""
    stall_timeout, waits = StallTimeout(default=10), []
    for _ in range(6):
        waits.append(stall_timeout.seconds(None))
        stall_timeout.timed_out(None)
    assert waits == [10, 20, 40, 80, 160, 160]


def test_what_is_known_of_a_camera_lasts_longer_than_a_connection_to_it():
    """One that sends a frame a minute may take that long again, one that sends thirty may not."""
    stall_timeout = StallTimeout(default=10)
    for interval, wait in ((60.0, 180), (1 / 30, 10)):
        stall_timeout.timed_out(None)
        stall_timeout.seconds(interval)
        assert stall_timeout.seconds(None) == wait


def test_silence_of_a_camera_whose_rate_is_known_changes_nothing():
    stall_timeout = StallTimeout(default=10)
    stall_timeout.timed_out(1 / 30)
    assert stall_timeout.seconds(None) == 10


def seen(freshness: Freshness, frames: list[tuple[int, float]]) -> list[bool]:
    """Whether frames of 10 a second, (number, age in seconds), are current when they are taken."""
    current = []
    for number, age in frames:
        captured = 100 + number / 10
        expires = freshness.expires(number, number / 10, captured, captured + age)
        current.append(captured + age <= expires)
    return current


def test_a_frame_is_current_for_two_intervals_more_than_the_youngest():
    ages = [(0, 0.05), (1, 0.05), (2, 0.24), (3, 0.26), (4, 0.05)]
    assert seen(Freshness("network"), ages) == [True, True, True, False, True]


def test_a_stream_time_that_is_wrong_makes_no_frame_current_for_long():
    """It went on by twenty minutes while a tenth of a second passed, and then stood still."""
    freshness = Freshness("local")
    for number in range(10):
        freshness.expires(number, number / 10, 100 + number / 10, 100 + number / 10)
    for number, pts in ((10, 1200.0), (11, 1200.0), (12, None)):
        now = 100 + number / 10
        assert freshness.expires(number, pts, now, now) < now + 1


def test_a_delay_that_every_frame_has_is_no_lateness():
    """Over a network it shows after two seconds, that it is one and not this program's start."""
    current = seen(Freshness("network"), [(n, 3.0) for n in range(50)])
    assert not any(current[:20])
    assert all(current[20:])
    assert all(seen(Freshness("unknown"), [(n, 3.0) for n in range(50)]))


def test_a_picture_of_a_source_that_is_thinned_out_stands_for_longer():
    """Else of cameras that are due together only those were labelled whose turn comes first."""
    each_fifth = Thinning(every=5).spacing
    frames = [(0, 0.0), (5, 0.9), (10, 1.1)]
    assert seen(Freshness("local", each_fifth), frames) == [True, True, False]


def test_a_delay_that_stays_becomes_that_of_the_source():
    """A clock that was estimated anew; at the worst, some seconds of frames are left out."""
    current = seen(Freshness("network"), [(n, 0.05 if n < 30 else 0.5) for n in range(120)])
    assert all(current[:30])
    assert not any(current[30:40])
    assert all(current[80:])


def test_frames_that_were_left_out_do_not_make_the_interval_longer():
    freshness = Freshness("network")
    assert seen(freshness, [(0, 0.0), (10, 0.0), (11, 0.25)]) == [True, True, False]


def test_what_holds_frames_up_does_not_make_the_interval_longer():
    """A busy camera takes its next picture late, and sends it late, too."""
    freshness = Freshness("network")

    def is_current(number: int, taken: float, age: float) -> bool:
        return taken + age <= freshness.expires(number, taken, taken, taken + age)

    assert all(is_current(number, number / 10, 0.0) for number in range(2))
    assert not is_current(2, 1.1, 0.9), "the third of a connection"
    freshness = Freshness("network")
    assert all(is_current(number, number / 10, 0.0) for number in range(5))
    assert not is_current(5, 0.8, 0.4)
    assert all(is_current(number, 0.3 + number / 10, 0.0) for number in range(6, 9))
    # One that takes fewer from now on is believed at the second.
    assert not is_current(9, 2.1, 0.4)
    assert is_current(10, 3.1, 0.4)


def test_without_times_every_frame_is_current():
    freshness = Freshness("network")
    assert [freshness.expires(n, None, 1.0, 50.0) for n in range(3)] == [float("inf")] * 3


def test_what_all_frames_of_a_camera_here_share_is_no_excuse():
    """Its clock is ours: when each frame is late, this machine is too slow."""
    frames = [(n, 0.05 if n < 30 else 0.5) for n in range(120)]
    current = seen(Freshness("local"), frames)
    assert all(current[:30])
    assert not any(current[30:])


@pytest.mark.parametrize("link", ["local", "network"])
def test_frames_that_waited_for_this_program_to_start_are_stale(link):
    frames = [(0, 1.4), (1, 1.3), (2, 0.3), (3, 0.2), (4, 0.1)]
    assert seen(Freshness(link), frames) == [False, False, True, True, True]
    assert all(seen(Freshness(link), [(n, 0.7) for n in range(60)])[30:])


@given(st.lists(st.floats(0, 5), min_size=2, max_size=60))
def test_nothing_that_is_late_by_more_than_two_intervals_is_called_current(ages):
    freshness = Freshness("local")
    for number, age in enumerate(ages):
        captured = 100 + number / 10
        expires = freshness.expires(number, number / 10, captured, captured + age)
        if captured + age <= expires:
            assert age <= min(ages[: number + 1]) + 0.2 + 1e-6
