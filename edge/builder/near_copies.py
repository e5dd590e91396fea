"""Near-copies: images that show the same scene, such as frames of a burst or resized twins.

Each image gets a perceptual hash, the difference hash of N. Krawetz (2013) with 256 bits: a pixel
of a 17x16 thumbnail is brighter than its left neighbour, or not. Two hashes of the same scene
differ in few bits: up to 7 for another JPEG quality or size, up to 24 for the next frames of a
film; those of different photos in about half of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.errors import ImageError
from edge.preprocess.images import load_image

__all__ = ["find", "perceptual_hash"]

BITS = 256
NEAR = 24  # largest number of bits in which near-copies differ
_SIDE = 16
_TEXTURE = 64  # pairs of neighbours that must differ by `_STEP`: flat images all look alike
_STEP = 2  # of 255
_BLOCK = 1024  # images that are compared with all others at once


def perceptual_hash(path: Path) -> str:
    """The hash of an image, 64 hexadecimal digits; "" if it is unreadable or has no texture."""
    try:
        pixels = load_image(path)
    except ImageError:
        return ""
    small = Image.fromarray(pixels).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    step = np.diff(np.asarray(small, np.int16), axis=1)
    if (abs(step) >= _STEP).sum() < _TEXTURE:
        return ""
    return np.packbits(step > 0).tobytes().hex()


def find(hashes: Sequence[str], others: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Index of each image that has a near-copy among `others`, and the index of the nearest one.

    hashes, others: of `perceptual_hash`. Images without a hash have no near-copies.
    """
    rows = [at for at, text in enumerate(hashes) if text]
    known = [(at, text) for at, text in enumerate(others) if text]
    if not known:
        return
    columns = _signs([text for _, text in known])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        # The product of two vectors of 1 and -1 is the bits that are equal less those that differ.
        equal = _signs([hashes[at] for at in block]) @ columns.T
        for at, nearest, product in zip(block, equal.argmax(1), equal.max(1), strict=True):
            if BITS - product <= 2 * NEAR:
                yield at, known[nearest][0]


def _signs(hashes: Sequence[str]) -> npt.NDArray[np.float32]:
    """float32 [N, BITS] of 1 and -1."""
    packed = np.frombuffer(b"".join(map(bytes.fromhex, hashes)), np.uint8)
    bits = np.unpackbits(packed.reshape(len(hashes), BITS // 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
