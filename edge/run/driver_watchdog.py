"""A source's driver is called: a bug there is that source's failure, and it may never return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.errors import EdgeError, SourceError

__all__ = ["CALL_TIMEOUT", "DriverWatchdog", "source_faults"]

# Seconds that a call may take beyond what it was asked to wait. A driver that works opens and
# closes within a few; name servers that are away hold whoever asks them for most of a minute.
CALL_TIMEOUT = 120.0


@contextmanager
def source_faults(name: str) -> Iterator[None]:
    """One source's bug, or a library's, is that source's failure, and not the run's."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        raise SourceError(
            f"{name} fails ({type(error).__name__}: {error})",
            "please report it, with what edge --debug shows",
        ) from error


class DriverWatchdog:
    """The calls to one source, one at a time; others see whether one hangs. clock: seconds."""

    def __init__(self, name: str, clock: Callable[[], float]):
        self._name, self._clock = name, clock
        self._due = float("inf")

    @contextmanager
    def call(self, within: float = 0.0) -> Iterator[None]:
        """A call that was asked to return within so many seconds. Raises as `source_faults`."""
        self._due = self._clock() + within + CALL_TIMEOUT
        try:
            with source_faults(self._name):
                yield
        finally:
            self._due = float("inf")

    def expect_return(self) -> None:
        """The source was told to stop: whatever it was asked to wait, it returns at once."""
        self._due = min(self._due, self._clock() + CALL_TIMEOUT)

    @property
    def overdue(self) -> SourceError | None:
        """What is wrong while a call does not return, long after it should have."""
        if self._clock() <= self._due:
            return None
        return SourceError(
            f"{self._name} hangs in its driver, which has not answered for {CALL_TIMEOUT:g} s",
            "plug it in anew, or restart the run",
        )
