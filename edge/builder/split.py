"""The images of a build: which calibrate, which are held out, and which trained the checkpoint.

Training writes `split.json` beside the checkpoint. An engine is evaluated only on images that did
not train: accuracy on images that a network has seen says nothing about new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edge.builder import image_sets, near_copies
from edge.builder.image_sets import MINIMUM, SPLIT_MINIMUM, UNREADABLE
from edge.errors import CalibrationError, CheckpointError
from edge.files.reading import read_bytes
from edge.files.storage import write_bytes

__all__ = ["NAME", "Sets", "Split", "TrainingImage", "choose", "read", "say_near_copies", "write"]

NAME = "split.json"
SCHEMA = 1
_AGAIN = "train again, or delete it: then nothing is known about the images that trained"


@dataclass(frozen=True)
class TrainingImage:
    """An image of the data set with which a checkpoint was trained."""

    file: str  # relative to the data set's folder
    use: Literal["train", "heldout"]
    sha256: str  # of the file
    near: str  # `near_copies.perceptual_hash`


@dataclass(frozen=True)
class Split:
    """The images that trained a checkpoint, and those that its training held out."""

    images: tuple[TrainingImage, ...]

    def contents(self, use: Literal["train", "heldout"]) -> dict[str, TrainingImage]:
        """SHA-256 -> image, of the images with this use; one in both sets counts as trained."""
        trained = {one.sha256: one for one in self.images if one.use == "train"}
        if use == "train":
            return trained
        heldout = {one.sha256: one for one in self.images if one.use == "heldout"}
        return {sha256: one for sha256, one in heldout.items() if sha256 not in trained}


@dataclass(frozen=True)
class Sets:
    """The images of a build."""

    calibration: list[Path]
    heldout: list[Path]
    origin: str  # of the held-out images, in words


def write(checkpoint: Path, root: Path, train: Sequence[Path], heldout: Sequence[Path]) -> None:
    """Write `split.json` into the checkpoint's folder; root: the data set's folder.

    Raises `StorageError`.
    """
    uses: dict[Literal["train", "heldout"], Sequence[Path]] = {"train": train, "heldout": heldout}
    images = [
        TrainingImage(str(path.relative_to(root)), use, sha256, near_copies.perceptual_hash(path))
        for use, paths in uses.items()
        for path, sha256 in zip(paths, image_sets.contents(paths), strict=True)
        if sha256 != UNREADABLE
    ]
    data = {"schema": SCHEMA, "images": [asdict(one) for one in images]}
    write_bytes(checkpoint / NAME, (json.dumps(data, indent=1) + "\n").encode())


def read(checkpoint: Path) -> Split | None:
    """The split of a checkpoint's training; None when its folder has no `split.json`.

    Raises `CheckpointError` when the file is damaged.
    """
    path = checkpoint / NAME
    if not path.is_file():
        return None
    try:
        data = msgspec.json.decode(read_bytes(path))
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')!r}, not {SCHEMA}")
        return msgspec.convert(data, Split)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", _AGAIN) from error


def choose(calibration: Path, heldout: Path | None, split: Split | None) -> Sets:
    """The images of a build; no image is in both sets, compared by content and not by name.

    calibration, heldout: folders. Without `heldout`, part of `calibration` is held out: the images
    that the training held out, or every fifth of those that did not train. Raises
    `CalibrationError` when an image of `heldout` trained or calibrates, or too few images remain.
    """
    found = image_sets.find(calibration)
    if heldout is None:
        candidates, heldout_files, origin = _hold_out(calibration, found, split)
    else:
        candidates, heldout_files = found, image_sets.find(heldout)
        origin = f"the images of {heldout}"
        _check_untrained(heldout, heldout_files, split)
    contents = set(image_sets.contents(heldout_files)) - {UNREADABLE}
    calibrating = [
        path
        for path, content in zip(candidates, image_sets.contents(candidates), strict=True)
        if content not in contents
    ]
    copies = len(candidates) - len(calibrating)
    if heldout is not None and copies:
        raise CalibrationError(
            f"{copies} images of {calibration} are also in {heldout}",
            "hold out images that are not used for calibration, or leave out --heldout",
        )
    if len(calibrating) < MINIMUM:
        raise _too_few(calibration, heldout, len(found), heldout_files, calibrating, copies)
    if split is None:
        origin += f"; the checkpoint has no {NAME}, so some of them may have trained it"
    return Sets(calibrating, heldout_files, origin)


def _hold_out(
    folder: Path, found: list[Path], split: Split | None
) -> tuple[list[Path], list[Path], str]:
    """(images that may calibrate, held-out images, their origin) of one folder."""
    if split is None:
        return *image_sets.hold_out(found), f"every fifth image of {folder}"
    contents = dict(zip(found, image_sets.contents(found), strict=True))
    known = split.contents("heldout")
    if heldout := [path for path in found if contents[path] in known]:
        rest = [path for path in found if contents[path] not in known]
        return rest, heldout, f"the images of {folder} that the training held out ({NAME})"
    trained = split.contents("train")
    new = [path for path in found if contents[path] not in trained]
    if not new:
        raise CalibrationError(
            f"all {len(found)} images of {folder} trained the checkpoint ({NAME}): none can "
            "evaluate the engine",
            "name a folder of images that it has not seen: --heldout DIR",
        )
    _, heldout = image_sets.hold_out(new)
    left = [path for path in found if path not in set(heldout)]
    return left, heldout, f"every fifth image of {folder} that did not train ({NAME})"


def _check_untrained(folder: Path, files: list[Path], split: Split | None) -> None:
    """Raise `CalibrationError` when one of the held-out images trained the checkpoint."""
    trained = split.contents("train") if split else {}
    seen = [
        path
        for path, content in zip(files, image_sets.contents(files), strict=True)
        if content in trained
    ]
    if seen:
        raise CalibrationError(
            f"{len(seen)} of the {len(files)} images of {folder} trained the checkpoint ({NAME}), "
            f"such as {seen[0]}",
            "hold out images that it has not seen, or leave out --heldout: the build then takes "
            "those that the training held out",
        )


def _too_few(
    calibration: Path,
    heldout: Path | None,
    found: int,
    heldout_files: list[Path],
    calibrating: list[Path],
    copies: int,
) -> CalibrationError:
    problem = f"{found} images found in {calibration}"
    needed = f"{MINIMUM} are needed for calibration"
    if heldout is not None:
        missing = MINIMUM - len(calibrating)
        return CalibrationError(f"{problem}; {needed}", f"add {missing} or more")
    return CalibrationError(
        f"{problem}: {len(heldout_files)} are held out, "
        f"{f'{copies} are copies of these, ' if copies else ''}"
        f"{len(calibrating)} remain; {needed}",
        f"put at least {SPLIT_MINIMUM} different images into it, or name a separate "
        "held-out folder: --heldout DIR",
    )


def say_near_copies(sets: Sets, split: Split | None, warn: Callable[[str], None]) -> None:
    """Warn about held-out images of which a near-copy calibrates or trained."""
    heldout = [near_copies.perceptual_hash(path) for path in sets.heldout]
    calibrating = [(str(path), near_copies.perceptual_hash(path)) for path in sets.calibration]
    trained = [(one.file, one.near) for one in split.images if one.use == "train"] if split else []
    for others, what in ((trained, "trained the checkpoint"), (calibrating, "calibrates")):
        pairs = list(near_copies.find(heldout, [text for _, text in others]))
        if pairs:
            at, other = pairs[0]
            warn(
                f"{len(pairs)} of {len(heldout)} held-out images have a near-copy that {what}, "
                f"such as {sets.heldout[at]} and {others[other][0]}: the accuracy on new images "
                "may be lower; hold out other scenes (--heldout)"
            )
