"""Log of repeated failures: the first one is reported, and later the recovery."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FaultLog"]


class FaultLog:
    """Reports a failure once per key until the operation succeeds again.

    count  number of failures of all keys since the start
    """

    def __init__(self, info: Callable[[str], None]):
        self.count = 0
        self._info = info
        self._failing: dict[str, int] = {}

    def failed(self, key: str, error: Exception, consequence: str) -> None:
        """Count `error`. If it is the first of its key, report it with `consequence`."""
        self.count += 1
        if key not in self._failing:
            self._info(f"{error}; {consequence}")
        self._failing[key] = self._failing.get(key, 0) + 1

    def works(self, key: str, what: str) -> None:
        """Report `what`, such as "snapshots are written", if the key had failed before."""
        if failures := self._failing.pop(key, 0):
            self._info(f"{what} again after {failures} failure{'s' if failures > 1 else ''}")
