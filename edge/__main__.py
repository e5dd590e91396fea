"""The way in: `edge`, and `python -m edge`."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

__all__ = ["main", "stop_on_signals"]

PATIENCE = 0.05  # seconds between two looks whether an import is done
SAY = 1.0  # seconds that it may take without a word
TWICE = 0.5  # seconds after which a second signal is no echo of the first
END = 30.0  # seconds for Python to take itself down, on a machine that is busy


def main() -> None:
    """Exit code 0 done, 1 a named error, 2 usage, 130 stopped before it was done."""
    # While the command is being loaded, Ctrl-C ends it without a word; a shell calls that 130, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edge.cli.app import INTERRUPTED, STOPPED, console
    from edge.cli.commands import app
    from edge.files.storage import drop_unread

    stop_on_signals()
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app()
    except KeyboardInterrupt:  # before the command began, or after its end
        console.error(STOPPED)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        drop_unread(sys.stdout)
        sys.exit(1)
    except OSError as error:
        if os.environ.get("EDGE_DEBUG"):
            raise
        what, reason = error.filename or "the results", error.strerror or error
        if not error.filename:
            drop_unread(sys.stdout)
        console.error(f"{what}: {reason}; check the path, and that there is space")
        sys.exit(1)
    finally:
        # All is done and said: while Python takes itself down, a signal just ends it.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # Threads may be left behind, stuck in a driver or a network. Should one hold this end, it
        # is shown where each of them was, and the process ends nevertheless.
        if sys.stderr is not None:
            faulthandler.dump_traceback_later(END, exit=True)


def stop_on_signals() -> None:
    """Ctrl-C raises KeyboardInterrupt, and so do a `kill`, a shutdown and a terminal that closes.

    It is raised after an import, which may take seconds: a second one ends the process where it is.
    What `nohup` runs outlives its terminal.
    """
    stopping = _Stopping()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stopping)


class _Stopping:
    """Raises KeyboardInterrupt, but not where it would abort the process or be lost.

    The one is while modules are being loaded, the other in a finaliser: it waits for their end.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # when it was asked for, on the clock of `monotonic`
        self._said = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM and self._since is None:
            return  # it was raised, while this one was under way
        if not _is_delicate(frame):
            self._since = None
            # Else it would be raised in what cleans up, too.
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt
        now = time.monotonic()
        waited = 0.0 if self._since is None else now - self._since
        self._since = now - waited
        if number == signal.SIGALRM and waited > SAY and not self._said:
            self._said = True
            _say("stopping when a library is loaded; once more stops at once")
        elif number != signal.SIGALRM and waited > TWICE:
            _say("stopped")
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            os._exit(128 + number)  # the first process of a container is not ended by a signal
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # its SIGALRM comes here, too


def _say(text: str) -> None:
    """A line on stderr, from a signal handler: not by `print`, which this may have interrupted.

    A progress bar may stand there, and has hidden the cursor.
    """
    if sys.stderr is None:  # closed by whoever started this: 2 is another file
        return
    with suppress(OSError):
        line = f"\r\x1b[K\x1b[?25h{text}\n" if os.isatty(2) else f"{text}\n"
        os.write(2, line.encode())


def _is_delicate(frame: FrameType | None) -> bool:
    """Whether what runs would not survive an exception, or forget it."""
    while frame is not None:
        code = frame.f_code
        # llvmlite calls Python back from C, where an exception is printed and forgotten. What torch
        # loads calls C that calls Python: an exception in that aborts the process.
        called_back = "/llvmlite/" in code.co_filename
        loading = code.co_filename.startswith("<frozen importlib")
        if loading or called_back or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
