"""Ages of frames, by a sender's clock that is set to anything and runs a little off."""

from __future__ import annotations

import pytest

from edge.run.ages import Ages

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
