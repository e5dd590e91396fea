"""Smoothing: the formulas at any frame rate, and a restart after each gap."""

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


def prediction_of(class_id: int, confidence: float = 0.9) -> Prediction:
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
def test_exponential_weights_each_frame_by_its_age(
    intervals: list[float], constant: float, seed: int
) -> None:
    """Frame i counts for the interval before it: weight exp(-age) - exp(-age - interval)."""
    smooth = smoothing(f"{constant:.6f}s")
    times = np.cumsum(intervals)
    predictions = scene(seed, len(times))
    results = [smooth("a", *pair) for pair in zip(predictions, times, strict=True)]
    decay = np.exp(-(times[-1] - times) / round(constant, 6))
    weights = np.append(decay[0], np.diff(decay))
    expected = (weights[:, None] * [frame.probabilities for frame in predictions]).sum(axis=0)
    assert results[-1].probabilities.dtype == np.float32
    assert results[-1].class_names == CLASSES
    np.testing.assert_allclose(results[-1].probabilities, expected, atol=1e-5)
    assert results[-1].probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_exponential_has_its_step_response_at_any_frame_rate(rate: int) -> None:
    smooth = smoothing("0.5s")
    for number in range(5 * rate + 1):
        smooth("a", prediction_of(0, 1.0), number / rate)
    for number in range(5 * rate + 1, 5 * rate + rate // 2 + 1):
        changed = smooth("a", prediction_of(1, 1.0), number / rate)
    assert changed.probabilities[1] == pytest.approx(1 - math.exp(-1), abs=1e-5)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_majority_is_the_most_frequent_best_class_of_the_last_frames(
    seen: list[int], frames: int
) -> None:
    smooth = smoothing(f"majority:{frames}")
    for number, class_id in enumerate(seen):
        smoothed = smooth("a", prediction_of(class_id), number / 30)
    last = seen[-frames:]
    assert last.count(smoothed.class_id) == max(last.count(class_id) for class_id in range(3))


def test_the_confidence_of_a_majority_is_the_mean_of_its_frames() -> None:
    smooth = smoothing("majority:3")
    for number, frame in enumerate(
        [prediction_of(0, 0.6), prediction_of(1, 0.99), prediction_of(0, 0.8)]
    ):
        smoothed = smooth("a", frame, number / 30)
    assert smoothed.label == "cat"
    assert smoothed.confidence == pytest.approx(0.7)


@pytest.mark.parametrize("winner", [0, 1])
def test_a_tie_is_decided_by_confidence(winner: int) -> None:
    smooth = smoothing("majority:4")
    for number, (class_id, confidence) in enumerate(
        [(winner, 0.9), (1 - winner, 0.8), (winner, 0.7), (1 - winner, 0.7)]
    ):
        smoothed = smooth("a", prediction_of(class_id, confidence), number / 30)
    assert smoothed.class_id == winner


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_smoothing_restarts_after_a_gap(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", prediction_of(0), number / 30)
    after = prediction_of(1)
    assert np.array_equal(smooth("a", after, 4.0).probabilities, after.probabilities)


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_smoothing_restarts_after_a_disconnect(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", prediction_of(0), number / 30)
    smooth.changed(Transition("a", "waiting", "unplugged"))
    smooth.changed(Transition("a", "playing", outage=0.02))
    after = prediction_of(1)
    assert np.array_equal(smooth("a", after, 1.0).probabilities, after.probabilities)


@pytest.mark.parametrize("text", ["60s", "majority:15"])
def test_sources_do_not_mix(text: str) -> None:
    smooth = smoothing(text)
    for number in range(30):
        smooth("a", prediction_of(0), number / 30)
        other = smooth("b", prediction_of(1), number / 30)
    assert other.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("text", ["2s", "majority:5"])
def test_the_predictions_of_the_engine_are_not_modified(text: str) -> None:
    smooth = smoothing(text)
    predictions = scene(3, 10)
    before = [frame.probabilities.copy() for frame in predictions]
    for number, frame in enumerate(predictions):
        smooth("a", frame, number / 30)
    assert all(map(np.array_equal, before, (frame.probabilities for frame in predictions)))


@pytest.mark.parametrize(
    "text",
    [
        *("0.5", "majority", "majority:1", "majority:x", "mode:3", ""),
        *("majority:1001", f"majority:{10**20}", f"majority:{'9' * 5000}"),
    ],
)
def test_an_invalid_option_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"; write "):
        smoothing(text)
    smoothing("majority:1000")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5", "write 5s, or majority:5 ("),
        ("15", "write 15s, or majority:15 ("),
        ("1", "write 0.5s, or majority:15 ("),
        ("mode:3", "write 0.5s, or majority:15 ("),
    ],
)
def test_the_hint_offers_both_forms_with_the_given_number(text: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        smoothing(text)
    assert caught.value.hint.startswith(hint)
