"""`Console`: messages on stderr; during a build one line per stage, and a progress bar."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn
from rich.text import Text

__all__ = ["Console"]


_WRITE_TIMEOUT = 100  # milliseconds that a slow terminal, such as a remote one, gets


class _Count(MofNCompleteColumn):
    """M/N, or nothing while N is unknown."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class Console:
    """Prints messages and the progress of a build; an `Observer` of `edge.builder.pipeline`.

    A build waits for a slow reader of stderr, such as a pager. A run does not: see `never_wait`.
    """

    def __init__(self) -> None:
        self._terminal = Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._name = ""
        self._started = 0.0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._room: select.poll | None = None
        self._lock = threading.Lock()
        self._unwritten = b""  # the rest of a line that was written in part
        self._dropped = 0  # lines
        self._line = ""  # the last line of the terminal, which `line` replaces
        self._has_line = False  # whether the terminal shows one

    def never_wait(self) -> None:
        """From now on never wait for a reader: a full pipe would block the run.

        Lines for which there is no room are dropped; their number is reported with the next line.
        """
        with suppress(AttributeError, ValueError):  # closed, or not a file of the system
            room = select.poll()
            room.register(sys.stderr.fileno(), select.POLLOUT)
            self._room = room

    def info(self, text: str) -> None:
        self._print(escape(text))

    def warn(self, text: str) -> None:
        self._print(f"[yellow]warning:[/] {escape(text)}")

    @property
    def line(self) -> Callable[[str], None] | None:
        """Function (text) that replaces the last line of the terminal; None without a terminal.

        Messages are printed above it. It is for a run: call `never_wait` first.
        """
        return self._replace_line if self._terminal.is_terminal else None

    def error(self, text: str) -> None:
        self._print(f"[red]error:[/] {escape(text)}")

    def stage(self, name: str) -> None:
        self._close_bars()
        self._name, self._started = name, time.monotonic()
        if self._terminal.is_terminal:
            self._bars = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                _Count(),
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
        """Restore the terminal, whatever happened."""
        self._close_bars()
        if sys.stderr is not None:
            sys.stderr.flush()

    def _print(self, markup: str) -> None:
        """Print a line, from any thread."""
        if self._room is None:
            self._terminal.print(markup)
            return
        with self._lock:
            if self._dropped:
                lost = f"{self._dropped} messages were dropped: nothing read stderr"
                markup = f"[yellow]warning:[/] {lost}\n{markup}"
            with self._terminal.capture() as line:
                self._terminal.print(markup)
            text = self._around_line(line.get()).encode(sys.stderr.encoding, "backslashreplace")
            self._unwritten = self._write(self._room, self._unwritten)
            rest = text if self._unwritten else self._write(self._room, text)
            if rest == text:
                self._dropped += 1
            else:
                self._unwritten, self._dropped = rest, 0

    def _replace_line(self, text: str) -> None:
        width = self._terminal.width - 1
        with self._lock:
            self._line = text if len(text) <= width else f"{text[: width - 1]}…"
            if self._room is not None and not self._unwritten:
                data = self._around_line("").encode(sys.stderr.encoding, "backslashreplace")
                self._unwritten = self._write(self._room, data)

    def _around_line(self, text: str) -> str:
        """A text that is printed above the replaceable line, if there is one."""
        if not self._line and not self._has_line:
            return text
        self._has_line = bool(self._line)
        return f"\r\x1b[K{text}{self._line}"

    def _write(self, room: select.poll, text: bytes) -> bytes:
        """Write as much as there is room for; returns the rest."""
        with suppress(OSError):  # such as a full disk
            while text:
                # POLLOUT and nothing else: the pipe may have no reader any more.
                ready = room.poll(0 if self._dropped else _WRITE_TIMEOUT)
                if [event for _, event in ready] != [select.POLLOUT]:
                    break
                # A pipe that is ready accepts PIPE_BUF bytes at once: pipe(7).
                text = text[os.write(ready[0][0], text[: select.PIPE_BUF]) :]
        return text

    def _close_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
