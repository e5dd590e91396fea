"""`DriverWatchdog`: detects a call into a source's driver that does not return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.errors import EdgeError, SourceError

__all__ = ["CALL_TIMEOUT", "DriverWatchdog", "source_faults"]

# Seconds that a call may take beyond the wait it was given. A working driver opens and closes
# within a few seconds; an unreachable name server blocks a lookup for most of a minute.
CALL_TIMEOUT = 120.0


@contextmanager
def source_faults(name: str) -> Iterator[None]:
    """Turn any exception but an EdgeError into a SourceError of this source.

    A bug in one source, or in a library that it uses, then fails that source and not the run.
    """
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        raise SourceError(
            f"{name} fails ({type(error).__name__}: {error})",
            "please report this with the output of edge --debug",
        ) from error


class DriverWatchdog:
    """Times the calls to one source, one call at a time; other threads read `overdue`.

    clock: seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float]):
        self._name, self._clock = name, clock
        self._deadline = float("inf")

    @contextmanager
    def call(self, within: float = 0.0) -> Iterator[None]:
        """Time a call that should return within `within` seconds. Raises as `source_faults`."""
        self._deadline = self._clock() + within + CALL_TIMEOUT
        try:
            with source_faults(self._name):
                yield
        finally:
            self._deadline = float("inf")

    def expect_return(self) -> None:
        """The source was stopped: the current call should return now, whatever its wait was."""
        self._deadline = min(self._deadline, self._clock() + CALL_TIMEOUT)

    @property
    def overdue(self) -> SourceError | None:
        """The error to report while a call is past its deadline, else None."""
        if self._clock() <= self._deadline:
            return None
        return SourceError(
            f"{self._name} hangs in its driver, which has not answered for {CALL_TIMEOUT:g} s",
            "unplug it and plug it in again, or restart the run",
        )
