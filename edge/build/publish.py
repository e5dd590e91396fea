"""Engines appear whole: put together in a folder of their own, then renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import EngineError
from edge.passport import Passport
from edge.storage import writing

__all__ = ["assembled", "recover", "unchanged"]


def unchanged(folder: Path, fingerprint: str) -> Passport | None:
    """The passport of an engine that was built from the very same, and is whole."""
    try:
        passport = Passport.read(folder)
        if passport.fingerprint != fingerprint:
            return None
        for name in passport.files:
            passport.check_file(folder, name)
    except EngineError:
        return None
    return passport


def recover(folder: Path) -> None:
    """Clear away what a killed build left, and put back an engine that it had moved aside.

    Only one process may build `folder` at a time: see `storage.alone`.
    """
    new, old = _beside(folder)
    with writing(folder):
        if (old / "passport.json").is_file() and not folder.exists():
            old.replace(folder)
        for left in (new, old):
            if left.exists():
                shutil.rmtree(left)


@contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """A folder to put an engine together in; it takes `folder`'s place when all went well.

    A link is followed: the engine that it points to is replaced.
    """
    folder = folder.resolve()
    new, old = _beside(folder)
    recover(folder)
    try:
        with writing(folder):
            new.mkdir()
        yield new
        with writing(folder):
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
    finally:
        # Interrupted between the two renames, the old engine comes back.
        recover(folder)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new engine is made, and where the old one waits for a moment."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
