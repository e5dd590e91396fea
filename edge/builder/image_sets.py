"""A folder of images: what calibrates an engine, and what judges it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.errors import CalibrationError, ImageError
from edge.files import storage
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import load_image
from edge.preprocess.spec import Preprocess

__all__ = [
    "MINIMUM",
    "SPLIT_MINIMUM",
    "class_of",
    "contents",
    "digest",
    "find",
    "hold_out",
    "prepare",
    "prepare_first",
]

UNREADABLE = ""
MINIMUM = 16  # fewer images say too little about an activation's range
SPLIT_MINIMUM = 20  # images of which `hold_out` leaves so many
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}

Tensor = npt.NDArray[np.float32]


def find(folder: Path) -> list[Path]:
    """All images below a folder, sorted. Raises `CalibrationError` when there are none.

    What is named like one and cannot be read, a link to nothing for example, is among them: it is
    named and skipped later.
    """
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.is_file() else f"there is no folder {folder}"
        raise CalibrationError(what, "give a folder of images")
    try:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.is_dir()
        )
    except OSError as error:
        raise CalibrationError(f"{folder} cannot be read ({error})", "check its owner") from error
    if not files:
        raise CalibrationError(
            f"{folder} has no images",
            f"put at least {SPLIT_MINIMUM} into it ({' '.join(sorted(SUFFIXES))})",
        )
    return files


def hold_out(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split one set in two: every fifth image judges, the others calibrate."""
    judge = list(files[2::5])
    return [path for path in files if path not in set(judge)], judge


def prepare(
    files: Sequence[Path], preprocess: Preprocess, skipped: Callable[[str], None]
) -> Iterator[tuple[Path, Tensor]]:
    """Stream the prepared images: float32 [3, H, W] each.

    An image that cannot be read is named to `skipped` and left out.
    """
    preprocessor = Preprocessor(preprocess)
    for path in files:
        try:
            yield path, preprocessor(load_image(path, opaque=preprocess.opaque))
        except ImageError as error:
            skipped(error.problem)


def prepare_first(
    files: Sequence[Path], preprocess: Preprocess, count: int, skipped: Callable[[str], None]
) -> Tensor:
    """The first readable images, prepared: float32 [N, 3, H, W], N up to `count`.

    Raises `CalibrationError` when none can be read.
    """
    prepared = [tensor for _, tensor in islice(prepare(files, preprocess, skipped), count)]
    if not prepared:
        raise CalibrationError(
            f"none of the {len(files)} images in {files[0].parent} can be read", "give others"
        )
    return np.stack(prepared)


def class_of(path: Path, labels: Sequence[str]) -> int | None:
    """The class of `folder/<label>/image.png`, or None when the folder is no class's label.

    Nor is it known when it is the label of two, as ImageNet's crane, a bird and a machine.
    """
    name = path.parent.name
    return labels.index(name) if labels.count(name) == 1 else None


def contents(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each image's bytes, or `UNREADABLE`: such a one is named and skipped later."""

    def one(path: Path) -> str:
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
                return UNREADABLE
            return _content(path, state.st_size, state.st_mtime_ns)
        except OSError:
            return UNREADABLE

    return [one(path) for path in files]


@cache
def _content(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file. A build asks for that of each image several times, and reads it once."""
    return storage.digest(path)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over the images' names and contents."""
    result = hashlib.sha256()
    for path, known in zip(files, contents(files), strict=True):
        result.update(os.fsencode(f"{path.parent.name}/{path.name}") + f"\0{known}\0".encode())
    return result.hexdigest()
