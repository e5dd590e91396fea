"""The way in: `edge`, and `python -m edge`."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Exit code 0 done, 1 a named error, 2 usage."""
    # While the command is being loaded, Ctrl-C ends it without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edge.cli import app

    # A `kill` or a shutdown cleans up as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    finally:
        # All is done and said: while Python takes itself down, a signal just ends it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
