"""What goes wrong again and again in a run that goes on: said once, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FaultLog"]


class FaultLog:
    """Tells a person what fails, once for each key, until it works again.

    count  failures of all keys, from the start
    """

    def __init__(self, info: Callable[[str], None]):
        self.count = 0
        self._info = info
        self._failing: dict[str, int] = {}

    def failed(self, key: str, error: Exception, then: str) -> None:
        """`error` came up; `then` says what the run does about it."""
        self.count += 1
        if key not in self._failing:
            self._info(f"{error}; {then}")
        self._failing[key] = self._failing.get(key, 0) + 1

    def works(self, key: str, what: str) -> None:
        """`what` says what works again, if it had failed."""
        if failures := self._failing.pop(key, 0):
            self._info(f"{what} again, after {failures} that failed")
