"""The observer: receives the progress and the warnings of a build."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Observer"]


class Observer(Protocol):
    """Receives the progress and the warnings of a build, such as the console."""

    def stage(self, name: str) -> None:
        """Called when a stage begins."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Called when `done` of `total` items of the stage are done; what: the kind of item."""

    def done(self, text: str) -> None:
        """Called when the stage has ended; text: its result."""

    def warn(self, text: str) -> None:
        """Called with a warning, for example that an image was skipped."""
