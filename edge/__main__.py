"""The way in: `edge`, and `python -m edge`."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from importlib.machinery import ExtensionFileLoader
from types import FrameType

__all__ = ["main", "stop_on_signals"]

PATIENCE = 0.05  # seconds between two looks whether a native module is loaded
END = 30.0  # seconds for Python to take itself down, on a machine that is busy

_LOADING = ("create_module", "exec_module")


def main() -> None:
    """Exit code 0 done, 1 a named error, 2 usage, 130 stopped before it was done."""
    # While the command is being loaded, Ctrl-C ends it without a word; a shell calls that 130, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edge.app import INTERRUPTED, STOPPED, console
    from edge.cli import app
    from edge.storage import drop_unread

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

    What `nohup` runs outlives its terminal.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not where it would abort the process or be lost.

    The one is while a native module is being loaded, the other in a finaliser: wait for its end.
    """
    while frame is not None:
        code = frame.f_code
        # llvmlite calls Python back from C, where an exception is printed and forgotten.
        called_back = "/llvmlite/" in code.co_filename
        loading = code.co_name in _LOADING and isinstance(
            frame.f_locals.get("self"), ExtensionFileLoader
        )
        if loading or called_back or code.co_name == "__del__":
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # its SIGALRM comes here, too
            return
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
