"""Image sets: folders of images for calibration and for evaluation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from edge.errors import CalibrationError, ImageError
from edge.files import storage
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import load_image, suffixes
from edge.preprocess.spec import Preprocess

__all__ = [
    "MINIMUM",
    "SPLIT_MINIMUM",
    "class_of",
    "contents",
    "digest",
    "find",
    "hold_out",
    "others",
    "prepare",
    "prepare_first",
]

UNREADABLE = ""
MINIMUM = 16  # images for calibration: fewer are not enough to determine activation ranges
SPLIT_MINIMUM = 20  # images of which `hold_out` leaves `MINIMUM` for calibration

Tensor = npt.NDArray[np.float32]


def find(folder: Path) -> list[Path]:
    """All images below a folder, sorted. Raises `CalibrationError` when there are none.

    Files are found by their suffix (see `others`). Unreadable ones, such as broken links, are
    included: they are reported and skipped later.
    """
    return _listed(folder)[0]


def others(folder: Path) -> list[Path]:
    """The files below a folder that `find` leaves out by their suffix, sorted; not hidden ones."""
    return _listed(folder)[1]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images, other files) below a folder."""
    known = suffixes()
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.is_file() else f"there is no folder {folder}"
        raise CalibrationError(what, "give a folder of images")
    try:
        found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    except OSError as error:
        raise CalibrationError(f"{folder} cannot be read ({error})", "check its owner") from error
    files = [path for path in found if path.suffix.lower() in known]
    if not files:
        raise CalibrationError(
            f"{folder} has no images",
            f"put at least {SPLIT_MINIMUM} into it ({' '.join(sorted(known))})",
        )
    hidden = [path for path in found if path.name.startswith(".")]
    return files, sorted(set(found).difference(files, hidden))


def hold_out(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split a set: (calibration images, held-out images). Every fifth image is held out."""
    heldout = list(files[2::5])
    return [path for path in files if path not in set(heldout)], heldout


def prepare(
    files: Sequence[Path], preprocess: Preprocess, skipped: Callable[[str], None]
) -> Iterator[tuple[Path, Tensor]]:
    """Stream the images with their paths, prepared: float32 [3, H, W] each.

    skipped: called with a message for each image that cannot be read, which is left out.
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
    """The first readable images, prepared: float32 [N, 3, H, W], N at most `count`.

    skipped: see `prepare`. Raises `CalibrationError` when no image can be read.
    """
    prepared = [tensor for _, tensor in islice(prepare(files, preprocess, skipped), count)]
    if not prepared:
        raise CalibrationError(
            f"none of the {len(files)} images in {files[0].parent} can be read",
            "give other images",
        )
    return np.stack(prepared)


def class_of(path: Path, labels: Sequence[str]) -> int | None:
    """The class of `folder/<label>/image.png`; None when it is unknown.

    It is unknown when the folder's name is no label, or the label of two classes, such as
    ImageNet's crane, a bird and a machine. Unicode NFC and NFD names match: macOS writes NFD.
    """
    name = normalize("NFC", path.parent.name)
    plain = [normalize("NFC", label) for label in labels]
    return plain.index(name) if plain.count(name) == 1 else None


def contents(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each image file, or `UNREADABLE`; unreadable images are reported later."""

    def content(path: Path) -> str:
        try:
            state = path.stat()
            return _content(path, state.st_size, state.st_mtime_ns)
        except OSError:
            return UNREADABLE

    return [content(path) for path in files]


@cache
def _content(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file. A build needs it several times for each image, but reads it only once."""
    return storage.digest(path)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over the images' names and contents."""
    result = hashlib.sha256()
    for path, content in zip(files, contents(files), strict=True):
        result.update(os.fsencode(f"{path.parent.name}/{path.name}") + f"\0{content}\0".encode())
    return result.hexdigest()
