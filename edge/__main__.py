"""The way in: `edge`, and `python -m edge`."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Exit code 0 done, 1 a named error, 2 usage."""
    # While the command is being loaded, Ctrl-C ends it without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edge.cli import app, console
    from edge.storage import drop_unread

    # A `kill` or a shutdown cleans up as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app()
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
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
