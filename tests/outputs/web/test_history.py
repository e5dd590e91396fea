"""History: the data of the live page, with a manual clock."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge.outputs.web.history import CHANGES, History
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Status, Transition
from edge.sources.frame import Frame


class Run:
    """A run of one camera, "camera", as the loop reports it."""

    def __init__(self, guess: Any):
        self.now = 100.0
        self.status = Status("fake", "system memory", clock=lambda: self.now)
        self.status.add("camera")
        self.history = History(self.status)
        self._guess = guess

    def result(
        self, confidence: float = 0.75, age_ms: float = 20.0, source: str = "camera"
    ) -> None:
        pixels = np.zeros((1, 1, 3), np.uint8)
        frame = Frame(source, 0, None, self.now, "system", Surface.from_rgb(pixels))
        found = Result(frame, self._guess(7, confidence), age_ms, age_ms / 2, 0.0)
        for tally in (self.status.total, self.status.add(source).tally):
            tally.add(age_ms, age_ms / 2, self.now, self.now)
        self.status.add(source).last_labelled = self.now
        self.history.write(found)

    def change(self, *args: Any, **kwargs: Any) -> None:
        transition = Transition(*args, **kwargs)
        self.status.change(transition)
        self.history.changed(transition)

    def state(self, run: str = "", since: float = 0.0) -> dict[str, Any]:
        return json.loads(json.dumps(self.history.state(run, since)))


@pytest.fixture
def run(guess: Any) -> Run:
    return Run(guess)


def test_a_camera_without_frames_is_included(run):
    run.now += 3
    state = run.state()
    (source,) = state["sources"]
    assert (source["name"], source["state"], source["for"]) == ("camera", "connecting", 3.0)
    assert (source["frames"], source["fps"]) == (0, 0.0)
    assert (source["top"], source["points"], source["at"]) == ([], [], None)
    assert source["age_ms"] == {"p50": None, "p90": None, "p99": None}
    assert (state["backend"], state["frame_path"]) == ("fake", "system memory")


def test_results_become_points_of_the_charts_at_most_four_per_second(run):
    for index in range(30):  # 10 each second
        run.now = 100 + index / 10
        run.result(confidence=index / 100, age_ms=index)
    (source,) = run.state()["sources"]
    assert source["frames"] == run.state()["frames"] == 30
    points = source["points"]
    assert [point[0] for point in points] == pytest.approx(np.arange(0, 3, 0.3), abs=1e-3)
    assert points[1] == [0.3, 0.03, 3.0, 1.5, "class 7"]
    assert source["top"][0] == ["class 7", 0.27]
    assert len(source["top"]) == 3


def test_only_new_points_are_sent_to_a_client_that_has_the_others(run):
    run.result()
    state = run.state()
    run.now += 1
    run.result(confidence=0.5)
    later = run.state(state["run"], state["now"])
    assert [point[1] for point in later["sources"][0]["points"]] == [0.5]
    assert run.state(state["run"], later["now"])["sources"][0]["points"] == []
    other = run.state("another run", later["now"])
    assert len(other["sources"][0]["points"]) == 2, "its points are of another run"


def test_points_older_than_a_minute_are_removed(run):
    for index in range(300):
        run.now = 100 + index / 2
        run.result()
    points = run.state()["sources"][0]["points"]
    assert 59 <= points[-1][0] - points[0][0] <= 60
    for _ in range(1000):
        run.now += 0.25
        run.result()
    assert len(run.state()["sources"][0]["points"]) <= 240


def test_the_frame_rate_is_the_current_one(run):
    for index in range(100):
        run.now = 100 + index
        run.result()
    for index in range(100):
        run.now = 200 + index / 20
        run.result()
    run.result(source="another")
    (one, other) = run.state()["sources"]
    assert one["fps"] == pytest.approx(20, rel=0.05)
    assert other["fps"] == 0, "one frame has no rate"
    run.now += 60
    assert run.state()["fps"] == 0


def test_a_state_has_its_reason_and_duration(run):
    run.change("camera", "playing")
    run.now += 10
    run.change("camera", "waiting", "connection\nrefused")
    run.now += 5
    run.change("camera", "playing", outage=5.0)
    run.now += 1
    (source,) = run.state()["sources"]
    assert (source["state"], source["reason"], source["for"]) == ("playing", "", 1.0)
    assert source["reconnects"] == 1
    assert source["changes"] == [
        [0.0, "playing", "", None],
        [10.0, "waiting", "connection refused", None],
        [15.0, "playing", "", 5.0],
    ]


def test_the_number_of_kept_transitions_is_limited(run):
    for _ in range(10 * CHANGES):
        run.change("camera", "waiting", "again")
    assert len(run.state()["sources"][0]["changes"]) == CHANGES


def test_percentiles_are_computed_once_per_second_for_all_clients(run, monkeypatch):
    run.result(age_ms=10.0)
    assert run.state()["age_ms"]["p50"] == pytest.approx(10, rel=0.01)
    for _ in range(10):
        run.result(age_ms=1000.0)
    assert run.state()["age_ms"]["p50"] == pytest.approx(10, rel=0.01)
    run.now += 1
    state = run.state()
    assert state["age_ms"]["p50"] == pytest.approx(1000, rel=0.01)
    assert state["sources"][0]["latency_ms"]["p50"] == pytest.approx(500, rel=0.01)


def test_a_source_that_is_added_later_is_included(run):
    assert not run.history.knows("another")
    run.state()
    run.result(source="another")
    run.now += 1
    assert [source["name"] for source in run.state()["sources"]] == ["camera", "another"]
    assert run.history.knows("another")


def test_labels_are_limited_to_one_line_and_120_characters(run):
    class Long:
        def top(self, k: int) -> list[tuple[int, str, float]]:
            return [(0, "a\r\nb" * 1000, 1.0)]

    pixels = Surface.from_rgb(np.zeros((1, 1, 3), np.uint8))
    result = Result(Frame("camera", 0, None, 0.0, "system", pixels), Long(), 1.0, 1.0, 0.0)
    about = run.history.about(result)
    ((label, _),) = about["top"]
    assert label.isprintable()
    assert len(label) == 120
