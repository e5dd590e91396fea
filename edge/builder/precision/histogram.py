"""Histograms of activation magnitudes, and four methods that choose a range from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["METHODS", "Histogram"]

BINS = 4096
SMALLEST_LIMIT = 1e-20  # of a histogram: smaller values count as 0
LEVELS = 128  # magnitudes of a symmetric INT8, 0 included
PERCENTILE = 99.99
SMALLEST_SHARE = 1e-9  # lower bound of a bin's share in the entropy method

Floats = npt.NDArray[np.float64]


class Histogram:
    """Counts of |x| in `BINS` equal bins over 0..limit; larger values double the limit."""

    def __init__(self) -> None:
        self.counts: Floats = np.zeros(BINS)
        self.limit = SMALLEST_LIMIT
        self.amax = 0.0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count values of any shape. Raises ValueError for NaN or infinity."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("NaN or infinity")
        self.amax = max(self.amax, largest)
        if self.limit == SMALLEST_LIMIT:
            self.limit = max(largest, SMALLEST_LIMIT)
        while largest > self.limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.limit *= 2
        bins = (magnitudes * np.float32(BINS / self.limit)).astype(np.int32)
        np.minimum(bins, BINS - 1, out=bins)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def centres(self) -> Floats:
        """The magnitude in the middle of each bin."""
        return np.asarray((np.arange(BINS) + 0.5) * (self.limit / BINS), np.float64)


def _minmax(histogram: Histogram) -> float:
    """The largest magnitude."""
    return histogram.amax


def _percentile(histogram: Histogram) -> float:
    """The magnitude below which `PERCENTILE` percent of the values are."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    bin_ = int(np.searchsorted(share, PERCENTILE / 100))
    return min(histogram.amax, (bin_ + 1) * histogram.limit / BINS)


def _mse(histogram: Histogram) -> float:
    """The range with the least expected squared error: rounding inside, clipping outside.

    Rounding to steps s costs s^2/12 per value (uniform in a step), clipping at t costs (|x| - t)^2.
    """
    values, counts = histogram.centres, histogram.counts
    candidates = histogram.amax * np.linspace(0.1, 1.0, 181)
    inside = np.cumsum(counts)
    first = np.concatenate([[0], np.cumsum(counts * values)])
    second = np.concatenate([[0], np.cumsum(counts * values**2)])
    costs = []
    for amax in candidates:
        cut = min(int(amax * BINS / histogram.limit), BINS - 1)
        outside = inside[-1] - inside[cut]
        clipped = (
            (second[-1] - second[cut + 1])
            - 2 * amax * (first[-1] - first[cut + 1])
            + outside * amax**2
        )
        costs.append(inside[cut] * (amax / (LEVELS - 1)) ** 2 / 12 + max(clipped, 0.0))
    return float(candidates[int(np.argmin(costs))])


def _entropy(histogram: Histogram) -> float:
    """The range whose INT8 histogram loses the least information (Kullback-Leibler divergence).

    After Migacz, "8-bit inference with TensorRT", GTC 2017: values beyond the range are counted in
    its last bin; the others are averaged into `LEVELS` levels over the bins that are not empty.
    """
    counts = histogram.counts
    used = min(int(np.ceil(histogram.amax * BINS / histogram.limit)), BINS)
    best, best_loss = used, np.inf
    for stop in range(LEVELS, used + 1, 16):
        reference = counts[:stop].copy()
        reference[-1] += counts[stop:].sum()
        level = np.arange(stop) * LEVELS // stop
        filled = counts[:stop] > 0
        total = np.bincount(level, counts[:stop], LEVELS)
        width = np.bincount(level, filled, LEVELS)
        candidate = np.where(filled, (total / np.maximum(width, 1))[level], 0.0)
        occupied = reference > 0
        if not candidate.sum():
            continue
        # The lower bound keeps the loss finite: the last bin may hold only clipped values, of which
        # the candidate has none.
        p, q = reference[occupied] / reference.sum(), candidate[occupied] / candidate.sum()
        q = np.maximum(q, SMALLEST_SHARE)
        loss = float((p * np.log(p / q)).sum())
        if loss < best_loss:
            best, best_loss = stop, loss
    return min(histogram.amax, best * histogram.limit / BINS)


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
