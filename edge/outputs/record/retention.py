"""File names that sort by time, and the check of free disk space, for snapshots and videos."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

from edge.errors import StorageError
from edge.files.storage import writing

__all__ = ["check_free_space", "file_name", "time_order", "timestamp", "unused_path"]

# Space that stays free for the rest of the machine: 5 % of the disk, at most 500 MB.
_FREE_SHARE = 0.05
_FREE_BYTES = 500_000_000
_SLUG_BYTES = 60  # of the 255 of a file name, which holds two slugs, a time and a suffix


def file_name(text: str) -> str:
    """`text` as part of a file name: letters and digits joined by dashes; never empty."""
    words = "-".join(re.findall(r"[^\W_]+", text))
    return words.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "x"


def timestamp(seconds: float) -> str:
    """A time, in seconds since 1970, as it appears in file names: 20250131T101502.123Z (UTC)."""
    time = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03d}Z"


def unused_path(path: Path) -> Path:
    """`path`; if it exists, the first of PATH-2, PATH-3, ... that does not exist.

    Raises StorageError when this cannot be determined.
    """
    candidate, number = path, 1
    with writing(path):
        while candidate.exists():
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def time_order(name: str) -> list[str | int]:
    """Sort key for file names: by timestamp, then by the number that `unused_path` added."""
    parts = re.split(r"(\d+)", Path(name).stem)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def check_free_space(folder: Path) -> None:
    """Raises StorageError when less than 5 % of the disk, at most 500 MB, is free."""
    with writing(folder):
        disk = shutil.disk_usage(folder)
    floor = min(_FREE_SHARE * disk.total, _FREE_BYTES)
    if disk.free < floor:
        raise StorageError(
            f"the disk of {folder} is full: {disk.free / 1e6:.0f} MB are left, and "
            f"{floor / 1e6:.0f} MB must stay free for the rest of the machine",
            "free some space",
        )
