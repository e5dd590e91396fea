"""Where a run puts its pictures and films: names that sort by time, and room that is left."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

from edge.errors import StorageError
from edge.files.storage import writing

__all__ = ["check_free_space", "file_name", "time_order", "timestamp", "unused_path"]

# Left free for the rest of the machine: 5 % of a small disk, at most 500 MB of a large one.
_FREE_SHARE = 0.05
_FREE_BYTES = 500_000_000
_SLUG_BYTES = 60  # of 255 that a name may have; it holds two of them, a time and a suffix


def file_name(text: str) -> str:
    """Letters and digits of `text`, joined by dashes: fit for a file's name. Never empty."""
    words = "-".join(re.findall(r"[^\W_]+", text))
    return words.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "x"


def timestamp(seconds: float) -> str:
    """A UTC time, seconds since 1970, as it stands in names: 20250131T101502.123Z."""
    time = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03d}Z"


def unused_path(path: Path) -> Path:
    """`path`, or where something is there already the next of PATH-2, PATH-3 where nothing is.

    Raises StorageError when that cannot be known.
    """
    found, number = path, 1
    with writing(path):
        while found.exists():
            number += 1
            found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def time_order(name: str) -> list[str | int]:
    """Sort key for file names: by timestamp, then by the number that `unused_path` added."""
    parts = re.split(r"(\d+)", Path(name).stem)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def check_free_space(folder: Path) -> None:
    """Raises StorageError when the disk is so full that the machine needs what is left."""
    with writing(folder):
        disk = shutil.disk_usage(folder)
    floor = min(_FREE_SHARE * disk.total, _FREE_BYTES)
    if disk.free < floor:
        raise StorageError(
            f"the disk of {folder} is full: {disk.free / 1e6:.0f} MB are left, and at least "
            f"{floor / 1e6:.0f} MB stay free for the machine",
            "free some space",
        )
