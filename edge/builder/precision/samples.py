"""A bounded sample of an activation for calibration, of constant size for any number of images.

The images are divided into `FOLDS` folds in turn. A choice made on all folds but one is measured on
the remaining fold, that is on other images, so that no range is fitted to the calibration set only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["FOLDS", "Sample"]

FOLDS = 4

Floats = npt.NDArray[np.float32]


@dataclass
class Sample:
    """One activation: the extremes of its channels over all tokens, and some complete tokens.

    tokens: how many rows to keep of an image. every: one image in `every` keeps rows.
    """

    tokens: int
    every: int = 1
    seed: int = 0
    high: list[Floats] = field(default_factory=list)  # [C] for each fold
    low: list[Floats] = field(default_factory=list)
    rows: list[list[Floats]] = field(default_factory=lambda: [[] for _ in range(FOLDS)])
    images: int = 0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def add(self, values: Floats) -> None:
        """Add one image's activation, float32 [..., C]. Raises ValueError for NaN or infinity."""
        rows = values.reshape(-1, values.shape[-1])
        high, low = rows.max(0), rows.min(0)
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            raise ValueError("NaN or infinity")
        fold = self.images % FOLDS
        if fold == len(self.high):
            self.high.append(high)
            self.low.append(low)
        else:
            np.maximum(self.high[fold], high, out=self.high[fold])
            np.minimum(self.low[fold], low, out=self.low[fold])
        if self.images // FOLDS % self.every == 0:
            keep = self._random.permutation(len(rows))[: self.tokens]
            self.rows[fold].append(rows[np.sort(keep)])
        self.images += 1

    def extremes(self, without: int | None = None) -> tuple[Floats, Floats]:
        """The lowest and highest value of each channel, [C] each, except fold `without`."""
        folds = [fold for fold in range(len(self.high)) if fold != without]
        low = np.min([self.low[fold] for fold in folds], axis=0)
        return low, np.max([self.high[fold] for fold in folds], axis=0)

    def fold(self, number: int) -> Floats:
        """The kept tokens of one fold, float32 [tokens, C]."""
        return np.concatenate(self.rows[number])
