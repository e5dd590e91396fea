"""What a person is told while a run goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.preprocess.surface import Surface
from edge.run.frames import Frame
from edge.run.narrator import Narrator
from edge.run.sinks import Result
from edge.run.status import Transition


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def narrator(told: list[str]) -> Narrator:
    return Narrator(told.append, lambda text: told.append(f"warning: {text}"))


def result(guess: Any, width: int, source: str = "door") -> Result:
    surface = Surface.from_rgb(np.zeros((4, width, 3), np.uint8))
    return Result(Frame(source, 0, None, 0.0, "system", surface), guess(1), 1.0, 1.0)


def test_what_a_source_delivers_is_told_when_it_changes(
    narrator: Narrator, told: list[str], guess: Any
):
    for width in (8, 8, 16, 16):
        narrator.write(result(guess, width))
    narrator.write(result(guess, 16, "gate"))
    assert told == [
        "door: 8x4 RGB in system memory",
        "door: 16x4 RGB in system memory",
        "gate: 16x4 RGB in system memory",
    ]


def test_an_outage_is_two_lines(narrator: Narrator, told: list[str]):
    for transition in (
        Transition("door", "connecting"),
        Transition("door", "playing"),
        Transition("door", "waiting", "it is off; switch it on"),
        Transition("door", "playing", outage=4.25),
    ):
        narrator.changed(transition)
    assert told == [
        "warning: door: it is off; switch it on; trying again",
        "door plays again, after 4.2 s without a frame",
    ]


def test_a_failure_is_told_here_only_if_others_play_on(narrator: Narrator, told: list[str]):
    narrator.changed(Transition("a", "playing"))
    narrator.changed(Transition("b", "failed", "cut off"))
    narrator.changed(Transition("a", "failed", "cut off, too"))
    assert told == ["warning: b: cut off"]


def test_a_source_that_is_taken_out(narrator: Narrator, told: list[str]):
    narrator.changed(Transition("a", "ended", "taken out"))
    narrator.changed(Transition("b", "ended"))
    assert told == ["a: taken out"]


def test_a_source_that_comes_and_goes_fills_no_log():
    now, told = [0.0], []
    narrator = Narrator(told.append, told.append, clock=lambda: now[0])
    for _ in range(600):
        narrator.changed(Transition("door", "waiting", "it broke off"))
        narrator.changed(Transition("door", "playing", outage=0.1))
        now[0] += 0.5
    assert len(told) < 20
    assert "door comes and goes, more than 6 times a minute; it is kept up" in told
    now[0] += 100
    narrator.changed(Transition("door", "waiting", "it broke off"))
    assert told[-1] == "door: it broke off; trying again"
