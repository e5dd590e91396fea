"""What people are told, all on stderr. Of a build one line per stage, and a bar while it runs."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from contextlib import suppress

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

__all__ = ["Console"]


_PATIENCE = 100  # milliseconds: a terminal that is far away takes a while


class Console:
    """Tells a person how a build goes; an `Observer` of `edge.builder.pipeline`.

    A build waits for whoever reads stderr, page by page. A run does not: see `hurry`.
    """

    def __init__(self) -> None:
        self._terminal = Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._name = ""
        self._started = 0.0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._room: select.poll | None = None
        self._lock = threading.Lock()
        self._begun = b""  # the rest of a line that was read in part
        self._left_out = 0

    def hurry(self) -> None:
        """From now on never wait for a reader: with a pipe that is full, a run would stand still.

        What finds no room is left out. How much that was is said with the next line that does.
        """
        with suppress(AttributeError, ValueError):  # closed, or no file of the system's
            room = select.poll()
            room.register(sys.stderr.fileno(), select.POLLOUT)
            self._room = room

    def info(self, text: str) -> None:
        self._print(escape(text))

    def warn(self, text: str) -> None:
        self._print(f"[yellow]warning:[/] {escape(text)}")

    def error(self, text: str) -> None:
        self._print(f"[red]error:[/] {escape(text)}")

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
        if sys.stderr is not None:
            sys.stderr.flush()

    def _print(self, markup: str) -> None:
        """Print a line; on any thread."""
        if self._room is None:
            self._terminal.print(markup)
            return
        with self._lock:
            if self._left_out:
                lost = f"{self._left_out} lines were left out: nobody read them"
                markup = f"[yellow]warning:[/] {lost}\n{markup}"
            with self._terminal.capture() as line:
                self._terminal.print(markup)
            words = line.get().encode(sys.stderr.encoding, "backslashreplace")
            self._begun = self._write(self._room, self._begun)
            rest = words if self._begun else self._write(self._room, words)
            if rest == words:
                self._left_out += 1
            else:
                self._begun, self._left_out = rest, 0

    def _write(self, room: select.poll, words: bytes) -> bytes:
        """Write what there is room for; what is left, of a line that was begun or not."""
        with suppress(OSError):  # a disk that is full, say
            while words:
                # Ready, and nothing else: a pipe may have no reader any more.
                ready = room.poll(0 if self._left_out else _PATIENCE)
                if [event for _, event in ready] != [select.POLLOUT]:
                    break
                # A pipe that has room takes so much at once: pipe(7).
                words = words[os.write(ready[0][0], words[: select.PIPE_BUF]) :]
        return words

    def _close_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
