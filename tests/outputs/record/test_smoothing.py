"""Smoothing: the plain formulas, at any frame rate, and never across a gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.engine.engine import Prediction
from edge.errors import OptionError
from edge.outputs.record.smoothing import smoothing
from edge.run.status import Transition

CLASSES = ("cat", "dog", "fox")


def sure_of(class_id: int, confidence: float = 0.9) -> Prediction:
    probabilities = np.full(3, (1 - confidence) / 2, np.float32)
    probabilities[class_id] = confidence
    return Prediction(probabilities, CLASSES)


def scene(seed: int, frames: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet(np.ones(3), frames).astype(np.float32)
    return [Prediction(probabilities, CLASSES) for probabilities in drawn]


intervals = st.lists(st.floats(0.001, 0.9), min_size=1, max_size=40)


@given(intervals, st.floats(0.01, 20), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_exponential_weighs_each_frame_by_its_time(
    intervals: list[float], constant: float, seed: int
) -> None:
    """Frame i says what was seen in its interval: weight exp(-age) - exp(-age - interval)."""
    smooth = smoothing(f"{constant:.6f}s")
    times = np.cumsum(intervals)
    said = scene(seed, len(times))
    results = [smooth("a", *pair) for pair in zip(said, times, strict=True)]
    decay = np.exp(-(times[-1] - times) / round(constant, 6))
    weights = np.append(decay[0], np.diff(decay))
    expected = (weights[:, None] * [frame.probabilities for frame in said]).sum(axis=0)
    assert results[-1].probabilities.dtype == np.float32
    assert results[-1].class_names == CLASSES
    np.testing.assert_allclose(results[-1].probabilities, expected, atol=1e-5)
    assert results[-1].probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_exponential_answers_a_change_in_its_time_constant_at_any_rate(rate: int) -> None:
    smooth = smoothing("0.5s")
    for number in range(5 * rate + 1):
        smooth("a", sure_of(0, 1.0), number / rate)
    for number in range(5 * rate + 1, 5 * rate + rate // 2 + 1):
        changed = smooth("a", sure_of(1, 1.0), number / rate)
    assert changed.probabilities[1] == pytest.approx(1 - math.exp(-1), abs=1e-5)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_majority_is_what_most_of_the_last_frames_say(seen: list[int], frames: int) -> None:
    smooth = smoothing(f"majority:{frames}")
    for number, class_id in enumerate(seen):
        said = smooth("a", sure_of(class_id), number / 30)
    last = seen[-frames:]
    assert last.count(said.class_id) == max(last.count(class_id) for class_id in range(3))


def test_the_confidence_of_a_majority_is_that_of_its_voters() -> None:
    smooth = smoothing("majority:3")
    for number, frame in enumerate([sure_of(0, 0.6), sure_of(1, 0.99), sure_of(0, 0.8)]):
        said = smooth("a", frame, number / 30)
    assert said.label == "cat"
    assert said.confidence == pytest.approx(0.7)


@pytest.mark.parametrize("surer", [0, 1])
def test_of_two_classes_with_as_many_votes_the_surer_wins(surer: int) -> None:
    smooth = smoothing("majority:4")
    for number, (class_id, confidence) in enumerate(
        [(surer, 0.9), (1 - surer, 0.8), (surer, 0.7), (1 - surer, 0.7)]
    ):
        said = smooth("a", sure_of(class_id, confidence), number / 30)
    assert said.class_id == surer


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_after_a_gap_nothing_is_left_of_the_scene_before(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", sure_of(0), number / 30)
    after = sure_of(1)
    assert np.array_equal(smooth("a", after, 4.0).probabilities, after.probabilities)


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_a_source_that_stopped_starts_anew(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", sure_of(0), number / 30)
    smooth.changed(Transition("a", "waiting", "unplugged"))
    smooth.changed(Transition("a", "playing", outage=0.02))
    after = sure_of(1)
    assert np.array_equal(smooth("a", after, 1.0).probabilities, after.probabilities)


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_sources_do_not_mix(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", sure_of(0), number / 30)
        other = smooth("b", sure_of(1), number / 30)
    assert other.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("text", ["2s", "majority:5"])
def test_what_the_engine_said_is_not_changed(text: str) -> None:
    smooth = smoothing(text)
    said = scene(3, 10)
    before = [frame.probabilities.copy() for frame in said]
    for number, frame in enumerate(said):
        smooth("a", frame, number / 30)
    assert all(map(np.array_equal, before, (frame.probabilities for frame in said)))


@pytest.mark.parametrize(
    "text",
    [
        *("0.5", "majority", "majority:1", "majority:x", "mode:3", ""),
        *("majority:1001", f"majority:{10**20}", f"majority:{'9' * 5000}"),
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"; write "):
        smoothing(text)
    smoothing("majority:1000")


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("5", "write 5s, or majority:5, of"),
        ("15", "write 15s, or majority:15, of"),
        ("1", "write 0.5s, or majority:15, of"),
        ("mode:3", "write 0.5s, or majority:15, of"),
    ],
)
def test_both_spellings_are_offered_with_the_number_that_was_given(text: str, offered: str) -> None:
    with pytest.raises(OptionError) as caught:
        smoothing(text)
    assert caught.value.hint.startswith(offered)
