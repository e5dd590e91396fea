"""Pictures that say which camera took them, and when: any wrong or old frame gives itself away.

A picture is 5 rows of 8 blocks, white for each bit that is set: the camera, the milliseconds of
CLOCK_MONOTONIC, which all processes of a machine share, and a check sum over both. What a decoder
makes of a damaged picture has no valid check sum, or it is the picture.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "FIELDS", "ROWS", "Stamp", "now_ms", "paint", "read"]

ROWS, COLUMNS = 5, 8
# Bits of each field, lowest bit first: milliseconds in two halves, camera, check sum in two halves.
FIELDS = (10, 10, 6, 7, 7)
_WRAP = 1 << 20  # milliseconds: 17 minutes, far longer than any frame is on its way


@dataclass(frozen=True)
class Stamp:
    """camera: 0..63. ms: of CLOCK_MONOTONIC."""

    camera: int
    ms: int


def now_ms() -> int:
    return int(time.monotonic() * 1e3)


def fields(stamp: Stamp) -> tuple[int, ...]:
    """The values of FIELDS."""
    low, high = stamp.ms % _WRAP % 1024, stamp.ms % _WRAP // 1024
    check = crc32(bytes([stamp.camera, low % 256, low // 256, high % 256, high // 256]))
    return low, high, stamp.camera, check % 128, check // 128 % 128


def read(values: tuple[int, ...], now: int) -> Stamp | None:
    """The stamp that FIELDS say at `now`, milliseconds; None when the check sum is wrong."""
    low, high, camera, *_ = values
    ms = now - (now - low - 1024 * high) % _WRAP
    stamp = Stamp(camera, ms)
    return stamp if fields(stamp) == tuple(values) else None


def paint(stamp: Stamp, width: int = 320, height: int = 240) -> npt.NDArray[np.uint8]:
    """The picture: grey uint8 [height, width], multiples of 5 and 8."""
    bits = [
        value >> bit & 1
        for value, size in zip(fields(stamp), FIELDS, strict=True)
        for bit in range(size)
    ]
    blocks = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 219 + 16  # black and white of video
    return np.kron(blocks, np.ones((height // ROWS, width // COLUMNS), np.uint8))
