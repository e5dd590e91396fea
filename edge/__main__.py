"""`main`: the entry point of `edge` and `python -m edge`, with its signal handling."""

# ruff: noqa: E402
from __future__ import annotations

import signal

# While the command is imported, Ctrl-C ends it without a message; a shell reports 130, too.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import atexit
import faulthandler
import os
import sys
import time
from contextlib import suppress
from types import FrameType

__all__ = ["main", "stop_on_signals"]

RETRY_SECONDS = 0.05  # until the handler checks again whether an import has finished
MESSAGE_SECONDS = 1.0  # after which the wait is reported
REPEAT_SECONDS = 0.5  # after which another signal is a second request, not an echo of the first
EXIT_SECONDS = 30.0  # that Python gets to shut down, on a busy machine


def main() -> None:
    """Run the command. Exit code 0: done, 1: error, 2: usage, 130: stopped."""
    ending = _Ending()
    atexit.register(ending)  # the first to register is the last to run
    from edge.cli.app import INTERRUPTED, STOPPED, console
    from edge.cli.commands import app
    from edge.files.storage import drop_unread

    stop_on_signals()
    if sys.stdout is None:  # closed by the parent process
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app()
        ending.code = 0
    except SystemExit as done:
        ending.code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:  # before the start of the command, or after its end
        console.error(STOPPED)
        ending.code = INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as with `| head`
        drop_unread(sys.stdout)
    except OSError as error:
        if os.environ.get("EDGE_DEBUG"):
            raise
        target, reason = error.filename or "stdout", error.strerror or error
        if not error.filename:
            drop_unread(sys.stdout)
        console.error(f"{target}: {reason}; check the path and the free disk space")
    finally:
        # The work is done: while Python shuts down, a signal just ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # Abandoned threads may hang in a driver or the network. If one blocks the exit, the stacks
        # of all threads are printed and the process ends nevertheless.
        if sys.stderr is not None:
            faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)
    sys.exit(ending.code)


class _Ending:
    """Ends the process once Python's threads and exit handlers have ended.

    Native libraries then still wait for their own threads, when they are unloaded: after one build
    in about 90 for ever. The system frees what they hold.
    """

    code = 1  # until the command has ended: an exception that nobody handles

    def __call__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed, or absent
                stream.flush()
        os._exit(self.code)


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP.

    During an import, which may take seconds, it is raised after the import; a second signal ends
    the process at once. With `nohup`, SIGHUP stays ignored.
    """
    handler = _StopHandler()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class _StopHandler:
    """Raises KeyboardInterrupt, but not where it would abort the process or be lost.

    While a module is imported it could abort the process, in a finaliser it would be lost: there
    the handler sets a timer and tries again.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # `monotonic` seconds of the request
        self._reported = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM and self._since is None:
            return  # already raised, before this timer signal arrived
        if not _is_delicate(frame):
            self._since = None
            # Otherwise it would be raised again during the cleanup.
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt
        now = time.monotonic()
        waited = 0.0 if self._since is None else now - self._since
        self._since = now - waited
        if number == signal.SIGALRM and waited > MESSAGE_SECONDS and not self._reported:
            self._reported = True
            _print("stopping...; press Ctrl-C again to quit now")
        elif number != signal.SIGALRM and waited > REPEAT_SECONDS:
            _print("stopped")
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            os._exit(128 + number)  # PID 1 of a container is not ended by a signal
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)  # SIGALRM calls this handler


def _print(text: str) -> None:
    """Write a line to stderr from a signal handler, not by `print`, which it may have interrupted.

    On a terminal, first clear a progress bar and show the cursor that it has hidden.
    """
    if sys.stderr is None:  # closed by the parent process: descriptor 2 may be another file
        return
    with suppress(OSError):
        line = f"\r\x1b[K\x1b[?25h{text}\n" if os.isatty(2) else f"{text}\n"
        os.write(2, line.encode())


def _is_delicate(frame: FrameType | None) -> bool:
    """Whether an exception in the interrupted code would abort the process or be lost."""
    while frame is not None:
        code = frame.f_code
        # llvmlite calls Python from C, where an exception is only printed. Modules that torch loads
        # call C that calls Python: an exception there aborts the process.
        called_back = "/llvmlite/" in code.co_filename
        loading = code.co_filename.startswith("<frozen importlib")
        if loading or called_back or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
