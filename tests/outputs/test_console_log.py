"""The console log: which lines it prints for transitions, outages and flapping sources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.outputs.console_log import ConsoleLog
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.frame import Frame


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def console_log(lines: list[str]) -> ConsoleLog:
    return ConsoleLog(lines.append, lambda text: lines.append(f"warning: {text}"))


def result(guess: Any, width: int, source: str = "door") -> Result:
    surface = Surface.from_rgb(np.zeros((4, width, 3), np.uint8))
    return Result(Frame(source, 0, None, 0.0, "system", surface), guess(1), 1.0, 1.0, 0.0)


def test_the_format_of_a_source_is_reported_when_it_changes(
    console_log: ConsoleLog, lines: list[str], guess: Any
):
    for width in (8, 8, 16, 16):
        console_log.write(result(guess, width))
    console_log.write(result(guess, 16, "gate"))
    assert lines == [
        "door: 8x4 RGB in system memory",
        "door: 16x4 RGB in system memory",
        "gate: 16x4 RGB in system memory",
    ]


def test_a_rotation_is_reported(console_log: ConsoleLog, lines: list[str], guess: Any):
    stored = result(guess, 8)
    for orientation in (1, 6, 6):
        layout = replace(stored.frame.surface.layout, orientation=orientation)
        surface: Any = replace(stored.frame.surface, layout=layout)
        console_log.write(replace(stored, frame=replace(stored.frame, surface=surface)))
    assert lines == [
        "door: 8x4 RGB in system memory",
        "door: 8x4 RGB in system memory, turned by 90 degrees",
    ]


def test_an_outage_is_reported_in_two_lines(console_log: ConsoleLog, lines: list[str]):
    for transition in (
        Transition("door", "connecting"),
        Transition("door", "playing"),
        Transition("door", "waiting", "it is off; switch it on"),
        Transition("door", "playing", outage=4.25),
    ):
        console_log.changed(transition)
    assert lines == [
        "warning: door: it is off; switch it on; trying again",
        "door is connected again after 4.2 s without a frame",
    ]


def test_a_failure_is_reported_only_if_other_sources_are_left(
    console_log: ConsoleLog, lines: list[str]
):
    console_log.changed(Transition("a", "playing"))
    console_log.changed(Transition("b", "failed", "cut off"))
    console_log.changed(Transition("a", "failed", "cut off, too"))
    assert lines == ["warning: b: cut off"]


def test_a_source_that_ends_is_reported_only_with_a_reason(
    console_log: ConsoleLog, lines: list[str]
):
    console_log.changed(Transition("a", "ended", "taken out"))
    console_log.changed(Transition("b", "ended"))
    assert lines == ["a: taken out"]


class Hour:
    """A console log with a manual clock, and the lines that it printed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.console_log = ConsoleLog(self.lines.append, self.lines.append, clock=lambda: self.now)
        self.change("playing")

    def change(self, state: Any, reason: str = "", outage: float | None = None) -> None:
        self.console_log.changed(Transition("door", state, reason, outage))

    def outage(self, seconds: float = 1.0) -> None:
        """Two failures with different reasons, then a reconnect: one outage."""
        self.change("waiting", "it broke off")
        self.change("waiting", "it refuses")
        self.now += seconds
        self.change("playing", outage=seconds)

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            self.console_log.heartbeat()


FLAPPING = (
    "door disconnects more than 6 times a minute; it is still reconnected each time, but not "
    "reported each time"
)


def test_flapping_is_detected_by_the_number_of_outages_not_of_reasons():
    hour = Hour()
    for _ in range(6):
        hour.outage()
    assert FLAPPING not in hour.lines
    assert hour.lines.count("door is connected again after 1.0 s without a frame") == 6
    hour.change("waiting", "it broke off")
    assert hour.lines[-1] == FLAPPING


def test_a_flapping_source_does_not_flood_the_log():
    hour = Hour()
    for _ in range(600):
        hour.outage(0.25)
        hour.passes(0.25)
    assert len(hour.lines) < 30
    assert 4 < hour.lines.count(FLAPPING) < 8, "about once a minute"


def test_a_flapping_source_that_becomes_stable_is_reported_once():
    hour = Hour()
    for _ in range(10):
        hour.outage()
    assert hour.lines[-1] == FLAPPING
    hour.passes(200)
    assert hour.lines[-2:] == [FLAPPING, "door is connected again and stable"]
    hour.change("waiting", "it broke off")
    assert hour.lines[-1] == "door: it broke off; trying again"


def test_a_flapping_source_that_stays_disconnected_is_reported():
    hour = Hour()
    for _ in range(10):
        hour.outage()
    hour.change("waiting", "it broke off")
    hour.change("waiting", "it refuses")
    assert hour.lines[-1] == FLAPPING
    hour.passes(200)
    assert hour.lines[-2:] == [FLAPPING, "door: it refuses; trying again"]


@pytest.mark.parametrize(("state", "reason"), [("failed", "it is gone"), ("ended", "taken out")])
def test_the_end_of_a_flapping_source_is_reported_immediately(state: Any, reason: str):
    hour = Hour()
    hour.console_log.changed(Transition("other", "playing"))
    for _ in range(10):
        hour.outage()
    hour.change(state, reason)
    assert hour.lines[-1] == f"door: {reason}"
    hour.passes(200)
    assert hour.lines[-1] == f"door: {reason}", "and nothing after it"
