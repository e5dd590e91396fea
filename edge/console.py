"""How a build looks in a terminal: one line per stage, a bar while it runs, all on stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

__all__ = ["Console"]


class Console:
    """Tells a person how a build goes; an `Observer` of `edge.build.pipeline`."""

    def __init__(self) -> None:
        self._terminal = Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._name = ""
        self._started = 0.0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        self._terminal.print(escape(text))

    def warn(self, text: str) -> None:
        self._terminal.print(f"[yellow]warning:[/] {escape(text)}")

    def error(self, text: str) -> None:
        self._terminal.print(f"[red]error:[/] {escape(text)}")

    def stage(self, name: str) -> None:
        self._close_bars()
        self._name, self._started = name, time.monotonic()
        if self._terminal.is_terminal:
            self._bars = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=self._terminal,
                transient=True,
            )
            self._bars.start()
            self._bars.add_task(name, total=None)

    def progress(self, what: str, done: int, total: int) -> None:
        if self._bars is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(f"{self._name}: {what}", total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def done(self, text: str) -> None:
        self._close_bars()
        seconds = time.monotonic() - self._started
        self._terminal.print(f"  {escape(self._name):<28} {seconds:6.1f} s  {escape(text)}")

    def close(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        self._close_bars()
        sys.stderr.flush()

    def _close_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
