"""What a person is told while a run goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.outputs.console_log import ConsoleLog
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.frame import Frame


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def console_log(told: list[str]) -> ConsoleLog:
    return ConsoleLog(told.append, lambda text: told.append(f"warning: {text}"))


def result(guess: Any, width: int, source: str = "door") -> Result:
    surface = Surface.from_rgb(np.zeros((4, width, 3), np.uint8))
    return Result(Frame(source, 0, None, 0.0, "system", surface), guess(1), 1.0, 1.0, 0.0)


def test_what_a_source_delivers_is_told_when_it_changes(
    console_log: ConsoleLog, told: list[str], guess: Any
):
    for width in (8, 8, 16, 16):
        console_log.write(result(guess, width))
    console_log.write(result(guess, 16, "gate"))
    assert told == [
        "door: 8x4 RGB in system memory",
        "door: 16x4 RGB in system memory",
        "gate: 16x4 RGB in system memory",
    ]


def test_an_outage_is_two_lines(console_log: ConsoleLog, told: list[str]):
    for transition in (
        Transition("door", "connecting"),
        Transition("door", "playing"),
        Transition("door", "waiting", "it is off; switch it on"),
        Transition("door", "playing", outage=4.25),
    ):
        console_log.changed(transition)
    assert told == [
        "warning: door: it is off; switch it on; trying again",
        "door plays again, after 4.2 s without a frame",
    ]


def test_a_failure_is_told_here_only_if_others_play_on(console_log: ConsoleLog, told: list[str]):
    console_log.changed(Transition("a", "playing"))
    console_log.changed(Transition("b", "failed", "cut off"))
    console_log.changed(Transition("a", "failed", "cut off, too"))
    assert told == ["warning: b: cut off"]


def test_a_source_that_is_taken_out(console_log: ConsoleLog, told: list[str]):
    console_log.changed(Transition("a", "ended", "taken out"))
    console_log.changed(Transition("b", "ended"))
    assert told == ["a: taken out"]


class Hour:
    """A narrator, with a clock that stands until it is set, and what it told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.console_log = ConsoleLog(self.told.append, self.told.append, clock=lambda: self.now)
        self.change("playing")

    def change(self, state: Any, reason: str = "", outage: float | None = None) -> None:
        self.console_log.changed(Transition("door", state, reason, outage))

    def outage(self, seconds: float = 1.0) -> None:
        """It breaks off, refuses, and comes back: two reasons are still one outage."""
        self.change("waiting", "it broke off")
        self.change("waiting", "it refuses")
        self.now += seconds
        self.change("playing", outage=seconds)

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            self.console_log.heartbeat()


OFTEN = "door comes and goes, more than 6 times a minute; it is kept up"


def test_outages_are_counted_and_not_their_reasons():
    hour = Hour()
    for _ in range(6):
        hour.outage()
    assert OFTEN not in hour.told
    assert hour.told.count("door plays again, after 1.0 s without a frame") == 6
    hour.change("waiting", "it broke off")
    assert hour.told[-1] == OFTEN


def test_a_source_that_comes_and_goes_fills_no_log():
    hour = Hour()
    for _ in range(600):
        hour.outage(0.25)
        hour.passes(0.25)
    assert len(hour.told) < 30
    assert 4 < hour.told.count(OFTEN) < 8, "now and then"


def test_one_that_came_and_went_and_plays_on_is_told_once():
    hour = Hour()
    for _ in range(10):
        hour.outage()
    assert hour.told[-1] == OFTEN
    hour.passes(200)
    assert hour.told[-2:] == [OFTEN, "door plays again, and no longer comes and goes"]
    hour.change("waiting", "it broke off")
    assert hour.told[-1] == "door: it broke off; trying again"


def test_that_one_comes_and_goes_is_not_the_last_word_on_one_that_stays_away():
    hour = Hour()
    for _ in range(10):
        hour.outage()
    hour.change("waiting", "it broke off")
    hour.change("waiting", "it refuses")
    assert hour.told[-1] == OFTEN
    hour.passes(200)
    assert hour.told[-2:] == [OFTEN, "door: it refuses; trying again"]


@pytest.mark.parametrize(("state", "word"), [("failed", "it is gone"), ("ended", "taken out")])
def test_the_end_of_one_that_comes_and_goes_is_told_at_once(state: Any, word: str):
    hour = Hour()
    hour.console_log.changed(Transition("other", "playing"))
    for _ in range(10):
        hour.outage()
    hour.change(state, word)
    assert hour.told[-1] == f"door: {word}"
    hour.passes(200)
    assert hour.told[-1] == f"door: {word}", "and then it is over"
