"""Ages of frames, by a sender's clock that is set to anything and runs a little off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sources.ages import Ages, TimestampAges

NEAR = {"abs": 5e-3}
ROUGHLY = {"abs": 0.02}  # a clock may be off by a twentieth, as long as no frame is held up


def ages(frames: list[tuple[float, float]], *, zero: float = 0.0, speed: float = 1.0):
    """What is told of frames, (taken, arrived) in seconds by our clock; the sender's has another
    zero, and another speed.
    """
    told = Ages()
    return [told.age(zero + taken * speed, arrived) for taken, arrived in frames]


@pytest.mark.parametrize("zero", [0.0, 1e6, -1e6])
def test_what_the_senders_clock_is_set_to_does_not_matter(zero: float) -> None:
    told = ages([(0, 0.02), (1, 1.32), (2, 2.02)], zero=zero)
    assert told == pytest.approx([0, 0.3, 0], **ROUGHLY)


def test_that_the_first_frame_was_late_is_known_from_the_second() -> None:
    frames = [(0, 3), (1, 3.5), (5, 5.01), (6, 6.31)]
    assert ages(frames)[2:] == pytest.approx([0, 0.3], **ROUGHLY)


def test_frames_that_were_held_back_and_come_at_once_are_as_old_as_they_are() -> None:
    flowing = [(n / 30, n / 30 + 0.01) for n in range(60)]
    burst = [(n / 30, 7.0) for n in range(60, 210)]
    told = ages(flowing + burst)
    assert told[60] == pytest.approx(4.99, **NEAR)
    assert told[-1] == pytest.approx(7 - 209 / 30 - 0.01, **ROUGHLY)


def test_a_queue_that_grows_makes_frames_older() -> None:
    told = ages([(n / 30, n / 15) for n in range(300)])
    assert told[-1] == pytest.approx(299 / 30, rel=2e-3)


@pytest.mark.parametrize("speed", [0.953, 29 / 30, 24.9 / 25, 1 - 2e-4, 1 + 2e-4, 31 / 30])
@pytest.mark.parametrize("interval", [1 / 30, 60])
def test_a_clock_that_is_slow_or_fast_makes_no_frame_old(speed: float, interval: float) -> None:
    """Crystals lose or gain seconds in a day; cameras that count frames for a clock, an hour."""
    told = ages([(n * interval, n * interval + 0.01) for n in range(1440)], speed=speed)
    assert max(told) < 1e-6


@pytest.mark.parametrize(("set_to", "told"), [(100.0, 0.0), (-100.0, 100.0)])
def test_a_clock_that_is_set_forward_is_believed_and_one_that_is_set_back_is_not(
    set_to: float, told: float
) -> None:
    ages, frames = Ages(), [(n / 10, n / 10 + 0.01) for n in range(100)]
    for taken, now in frames[:50]:
        assert ages.age(taken, now) < 1e-3
    for taken, now in frames[50:]:
        assert ages.age(taken + set_to, now) == pytest.approx(told, **ROUGHLY)


def test_no_age_is_negative() -> None:
    assert min(ages([(0, 5), (1, 1), (2, 1), (3, 9)])) == 0


def flowing(frames: range, *, ahead: float = 0.0) -> list[tuple[float, float]]:
    """(stamp, arrived) of pictures, thirty a second, that are 10 ms on the way."""
    return [(n / 30 + ahead, n / 30 + 0.01) for n in frames]


@pytest.mark.parametrize("ahead", [0.2, 1.4, 2.9, 1e9])
def test_one_time_that_is_wrong_changes_nothing(ahead: float) -> None:
    """It is ahead; the true ones after it are then behind it."""
    ages = TimestampAges()
    stamps = [*flowing(range(30)), *flowing(range(30, 31), ahead=ahead), *flowing(range(31, 300))]
    assert max(ages.age(*stamp) for stamp in stamps) < 0.01
    assert ages.age(10.0, 10.5) == pytest.approx(0.49, **ROUGHLY)


@pytest.mark.parametrize("ahead", [-1.0, 0.0, 1.4, 2.9])
def test_times_that_stand_still_until_the_clock_has_caught_up_make_no_frame_old(
    ahead: float,
) -> None:
    """So GStreamer gives them after one that is too early or too late."""
    ages, stuck = TimestampAges(), 2 + ahead
    stamps = [
        *flowing(range(60)),
        *((stuck, now) for taken, now in flowing(range(60, 200)) if taken < stuck + 2),
        *flowing(range(210, 300)),
    ]
    assert max(ages.age(*stamp) for stamp in stamps) < 0.01
    assert ages.age(10.0, 10.5) == pytest.approx(0.49, **ROUGHLY)


def test_stamps_that_are_set_forward_and_stay_so_are_believed() -> None:
    ages = TimestampAges()
    stamps = [*flowing(range(30)), *flowing(range(30, 60), ahead=5.0)]
    assert max(ages.age(*stamp) for stamp in stamps) < 0.01
    assert ages.age(2 + 5.0, 2.51) == pytest.approx(0.5, **ROUGHLY)


def test_that_times_stand_still_is_known_and_makes_no_frame_older_or_younger() -> None:
    """As GStreamer gives them of a camera whose clock was set to before the stream began."""
    ages = TimestampAges()
    for stamp in flowing(range(60)):
        ages.age(*stamp)
        assert ages.frozen_for == 0
    told = [ages.age(59 / 30, now) for _, now in flowing(range(60, 300))]
    assert max(told) < 0.01
    assert ages.frozen_for == pytest.approx(8.0, abs=0.05)
    ages.age(60 / 30, 10.1)
    assert ages.frozen_for == 0


def test_two_frames_of_one_time_do_not_hide_a_queue() -> None:
    """Some cameras send twice what they stamp once; here two seconds of it are under way."""
    ages = TimestampAges()
    twice = [(n // 2 / 15, n / 30 + 0.01) for n in range(90)]
    late = [(taken, now + 2.0) for taken, now in [(n // 2 / 15, n / 30) for n in range(90, 180)]]
    assert max(ages.age(*stamp) for stamp in twice) < 0.1
    assert min(ages.age(*stamp) for stamp in late) > 1.8


@given(
    st.lists(st.tuples(st.floats(-1e10, 1e10), st.floats(0, 10)), min_size=1),
)
def test_no_stamp_makes_an_age_negative_or_no_number(stamps: list[tuple[float, float]]) -> None:
    ages, now = TimestampAges(), 0.0
    for taken, passed in stamps:
        now += passed
        assert 0 <= ages.age(taken, now) < float("inf")
