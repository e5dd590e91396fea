"""Measurements: percentiles close to the sample's own in bounded memory, and the JSON shape."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.run.summary import Histogram, Summary, Tally


def test_frames_are_counted_by_label() -> None:
    tally = Tally()
    for label in ("dog", "cat", "cat"):
        tally.add(1.0, 1.0, 0.0, 0.0, label)
    assert list(tally.numbers()["labels"].items()) == [("cat", 2), ("dog", 1)]


@given(st.lists(st.floats(1e-3, 9e6), min_size=1), st.sampled_from([50, 90, 99]))
def test_percentiles_are_within_half_a_percent(durations: list[float], percent: int) -> None:
    histogram = Histogram()
    for ms in durations:
        histogram.add(ms)
    exact = np.percentile(durations, percent, method="inverted_cdf")
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.00501)


@pytest.mark.parametrize("ms", [-1.0, 0.0, 1e-9, 1e12])
def test_durations_out_of_range_are_counted_at_its_ends(ms: float) -> None:
    histogram = Histogram()
    histogram.add(ms)
    middle = histogram.percentile(50)
    assert middle is not None
    assert 0.9e-3 < middle < 1.1e7


def test_memory_does_not_grow_with_the_frames() -> None:
    histogram = Histogram()
    bins = len(histogram._bins)
    for number in range(10_000):
        histogram.add(number)
    assert histogram.count == 10_000
    assert len(histogram._bins) == bins < 2500


def test_merge() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for ms in (1.0, 5.0, 9.0):
        one.add(ms)
        both.add(ms)
    for ms in (100.0, 200.0):
        other.add(ms)
        both.add(ms)
    one.merge(other)
    assert one.percentiles() == both.percentiles()
    assert one.count == 5


def test_nothing_measured() -> None:
    assert Histogram().percentiles() == {"p50": None, "p90": None, "p99": None}
    numbers = Tally().numbers()
    assert (numbers["frames"], numbers["fps"], numbers["seconds"]) == (0, 0.0, 0.0)


def test_rate_counts_the_intervals_between_results() -> None:
    tally = Tally()
    for number in range(5):
        tally.add(age_ms=30, latency_ms=20, read_at=1000 + number, ready=1000.5 + number)
    numbers = tally.numbers()
    assert (numbers["frames"], numbers["seconds"], numbers["fps"]) == (5, 4.5, 1.0)
    assert numbers["age_ms"]["p50"] == pytest.approx(30, rel=0.005)


def test_json() -> None:
    nothing = Histogram().percentiles()
    stages, sources = {"preprocess": nothing, "infer": nothing}, {"a": {"frames": 1}}
    summary = Summary("b", "f", 1, {"cat": 1}, 2, 0, 0, 3.0, 4.0, nothing, nothing, stages, sources)
    assert list(json.loads(summary.to_json())) == [
        "backend", "frame_path", "frames", "labels", "dropped", "stale", "reconnects", "seconds",
        "fps", "age_ms", "latency_ms", "stages_ms", "sources",
    ]  # fmt: skip


def test_durations_are_counted_up_to_bounds():
    histogram = Histogram()
    for ms in (1.0, 5.0, 5.0, 50.0):
        histogram.add(ms)
    assert histogram.up_to([0.5, 2.0, 10.0, 100.0]) == [0, 1, 3, 4]
    assert histogram.sum == 61.0
