"""INT8 and FP8: the number formats of quantised weights and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["FP8", "INT8", "NUMBERS", "Number"]

# Smallest scale: below FP16's smallest normal number scales lose precision, or a GPU flushes them.
SMALLEST_SCALE = 2.0**-14

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Number:
    """A number format: symmetric around 0, multiplied by a scale."""

    name: str
    largest: float  # largest magnitude that is used
    dtype: Any

    def scale(self, amax: Any) -> Floats:
        """The value of one step (INT8) or of 1.0 (FP8) when `amax` is the largest value."""
        size = np.maximum(np.asarray(amax, np.float64) / self.largest, SMALLEST_SCALE)
        return np.asarray(size, np.float32)

    def store(self, values: Floats, scale: Floats) -> npt.NDArray[Any]:
        """Values in this format, rounded to nearest even and saturated."""
        inside = np.clip(values / scale, -self.largest, self.largest)
        rounded = np.rint(inside) if self.dtype == np.int8 else inside
        return np.asarray(rounded.astype(self.dtype))


INT8 = Number("INT8", 127.0, np.dtype(np.int8))
# E4M3 without infinities, as in TensorRT and ONNX (arXiv 2209.05433).
FP8 = Number("FP8", 448.0, np.dtype(ml_dtypes.float8_e4m3fn))
NUMBERS = {"int8": INT8, "fp8": FP8}
