"""Results as text for people."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edge.outputs.text import NewLabels, TerminalLine
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.frame import Frame

SURFACE = Surface.from_rgb(np.zeros((4, 4, 3), np.uint8))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def result(guess: Any, label: int, source: str = "door") -> Result:
    frame = Frame(source, 0, None, 0.0, "system", SURFACE)
    return Result(frame, guess(label), 21.4, 9.0, 1738324799.75)


def test_a_line_is_written_when_the_label_of_a_source_is_another_one(guess: Any) -> None:
    render = NewLabels()
    given = [(7, "door"), (7, "door"), (7, "yard"), (2, "door"), (2, "door"), (7, "door")]
    lines = [render(result(guess, label, source)) for label, source in given]
    written = [line for line in lines if line]
    assert [line.split(" ", 1)[1] for line in written] == [
        "door class 7 75.0 %",
        "yard class 7 75.0 %",
        "door class 2 75.0 %",
        "door class 7 75.0 %",
    ]
    assert all(line.startswith("2025-01-31T11:59:59.750Z ") for line in written)


def test_the_terminal_s_line_has_the_newest_label_rate_and_age_of_each_source(guess: Any) -> None:
    shown: list[str] = []
    clock = Clock()
    line = TerminalLine(shown.append, clock)
    line.changed(Transition("door", "connecting"))
    assert shown == ["door: connecting"]
    for number in range(60):
        clock.now = 1 + number / 10
        for source in ("door", "yard"):
            line.write(result(guess, number % 10, source))
    part = "class {} 75 %, 10.0 fps, age 21 ms"
    assert shown[-1].startswith(f"door: {part.format(9)} | yard: class ")
    assert len(shown) <= 2 + 6 / 0.2, "not for every frame"
    line.changed(Transition("yard", "waiting", "it is off"))
    assert shown[-1].endswith("| yard: waiting")
    line.close()
    assert shown[-1] == ""


def on_a_terminal(script: str) -> str:
    """What a Python script writes to a terminal of 40 columns, its stdout and stderr."""
    here, there = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stdout=there, stderr=there, env=environment)
    os.close(there)
    written = b""
    while True:
        try:
            part = os.read(here, 4096)
        except OSError:
            break
        written += part
    os.close(here)
    return written.decode()


def test_messages_are_printed_above_the_line() -> None:
    written = on_a_terminal(
        "from edge.cli.console import Console; console = Console(); console.never_wait()\n"
        "show = console.line; show('door: cat'); console.info('a message')\n"
        "show('x' * 100); show('')"
    )
    clear = "\r\x1b[K"
    assert written.replace("\r\n", "\n") == (
        f"{clear}door: cat{clear}a message\ndoor: cat{clear}{'x' * 38}…{clear}"
    )


def test_without_a_terminal_there_is_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    from edge.cli.console import Console

    assert Console().line is None
