"""Who is told how a build goes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Observer"]


class Observer(Protocol):
    """Who is told how a build goes."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of the stage is done."""

    def done(self, text: str) -> None:
        """The stage ended; text says what came out."""

    def warn(self, text: str) -> None:
        """Something was skipped or is missing."""
