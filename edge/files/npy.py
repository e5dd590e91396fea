"""Atomic writing of arrays as .npy files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.errors import StorageError
from edge.files.storage import check_target, write_bytes

__all__ = ["check_npy", "write_npy"]


def check_npy(out: Path) -> None:
    """Check before the work that a .npy file can be written. Raises `StorageError`."""
    if out.suffix != ".npy":
        raise StorageError(f"{out} must end in .npy", f"write --out {out.stem or 'x'}.npy")
    check_target(out)


def write_npy(out: Path, array: npt.ArrayLike) -> None:
    """Write an array, or rows of equal length, atomically. Raises `StorageError`."""
    memory = io.BytesIO()
    np.save(memory, np.asarray(array), allow_pickle=False)
    write_bytes(out, memory.getvalue())
