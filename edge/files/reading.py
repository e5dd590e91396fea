"""Reading of regular files only: a pipe or a device may never end, or may never begin."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["ACCESS", "check_regular", "did_you_mean", "opened", "read_bytes", "read_text"]

ACCESS = "check the path, its owner and its permissions"  # the hint for an OSError of these


def check_regular(path: Path) -> os.stat_result:
    """The state of a regular file, before a library reads it. Raises OSError for anything else."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return found


def opened(path: Path) -> IO[bytes]:
    """A regular file, opened for reading. Raises OSError."""
    check_regular(path)
    return path.open("rb")


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError."""
    with opened(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a regular file. Raises OSError and UnicodeDecodeError."""
    check_regular(path)
    return path.read_text(encoding)


def did_you_mean(path: Path, default: str = "check the path") -> str:
    """A hint for a path that does not exist: the name beside it that is most similar, if any."""
    try:
        beside = [each.name for each in path.expanduser().parent.iterdir()]
    except (OSError, RuntimeError, ValueError):  # no such user, a null byte
        return default
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.7)
    return f"did you mean {path.with_name(near[0])}?" if near else default
