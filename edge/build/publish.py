"""Engines appear whole: put together in a folder of their own, then renamed into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import EngineError
from edge.passport import Passport
from edge.storage import writing

__all__ = ["assembled", "unchanged"]


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


@contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """A folder to put an engine together in; it takes `folder`'s place when all went well."""
    with writing(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        with writing(folder):
            scratch.chmod(0o755)
            if folder.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
                folder.replace(old)
                scratch.replace(folder)
                shutil.rmtree(old)
            else:
                scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
