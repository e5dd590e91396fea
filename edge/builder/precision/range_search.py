"""The search for an activation's range: minimises the measured error of the Linears that read it.

Migration strengths and ranges are evaluated by cross-validation, on tokens of images that were not
used to choose them (`Sample`). A token's error is squared in the cost: the classification depends
on few tokens, and those that a tight range clips are among them. Sources: SmoothQuant (arXiv
2211.10438) for the migration, "Data-free quantization" (arXiv 1906.04721) for bias correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.builder.precision.dtypes import INT8
from edge.builder.precision.histogram import Histogram
from edge.builder.precision.ranges import Range
from edge.builder.precision.samples import FOLDS, Sample

__all__ = ["fake_quantized", "fit", "quantized_weight"]

STRENGTHS = (0.5, 0.65, 0.8, 0.9, 1.0)
SHARES = (0.6, 0.75, 0.9, 1.1, 1.25)  # of the largest value; 1 is min-max
CLIPS = (1.0, 0.97, 0.94, 0.91, 0.88)  # of a weight channel's largest value
CLIP_TOKENS = 2048  # to measure a clip: it moves thousands of weights, so any tokens will do
SMALLEST = 1e-5  # lower bound of a channel's size, as a share of the largest channel
WORTH = 0.05  # of the largest value: a smaller shift is not worth an Add

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]
Methods = Mapping[str, Callable[[Histogram], float]]


def fake_quantized(values: Floats, amax: float) -> Floats:
    """Values after INT8 quantisation with range `amax`: rounded to nearest even, saturated."""
    step = INT8.scale(amax)
    # Activations go down to -128, where QuantizeLinear saturates; weights only to -127.
    inside = np.clip(np.rint(values / step), -INT8.largest - 1, INT8.largest)
    return np.asarray(inside * step, np.float32)


def quantized_weight(weight: Floats, clip: Floats | None = None) -> tuple[Integers, Floats]:
    """A weight [inputs, outputs] as INT8 and its scale [outputs].

    clip: range of each output channel as a share of its largest value, [outputs].
    """
    largest = np.abs(weight).max(axis=0)
    scale = INT8.scale(largest if clip is None else largest * clip)
    return INT8.store(weight, scale), scale


@dataclass(frozen=True)
class _Part:
    """One fold, with a migration that was computed from the other folds."""

    values: Floats  # [tokens, C], migrated
    output: Floats  # [tokens, outputs] of the Linears
    weight: Floats  # [C, outputs], migrated, quantised and dequantised
    amax: float  # the largest value in the other folds

    def errors(self, amax: float) -> npt.NDArray[np.float64]:
        """Squared error of each token's output with range `amax`, [tokens]."""
        errors = fake_quantized(self.values, amax) @ self.weight - self.output
        errors -= errors.mean(0)  # the bias correction removes the mean
        return np.asarray(np.einsum("tc,tc->t", errors, errors), np.float64)


def fit(sample: Sample, weight: Floats, methods: Methods, *, scaled: bool, shifted: bool) -> Range:
    """The best range of an activation, with its migration.

    weight: of all Linears that read the activation, side by side, [C, outputs]. methods: name ->
    function that chooses a range from a histogram. scaled, shifted: the kinds of migration that the
    graph allows here.
    """
    low, high = sample.extremes()
    before = float(max(high.max(), -low.min()))
    shift = float(high.max() + low.min()) / 2 if shifted else 0.0
    if abs(shift) < WORTH * before:
        shift = 0.0

    inputs = [sample.fold(fold) - np.float32(shift) for fold in range(FOLDS)]
    outputs = [rows @ weight for rows in inputs]

    def parts(strength: float | None) -> list[_Part]:
        made = []
        for fold in range(FOLDS):
            low, high = sample.extremes(without=fold)
            magnitude = np.maximum(high - shift, shift - low)
            scale = _scale(magnitude, weight, strength)
            stored, weight_scale = quantized_weight(weight * scale[:, None])
            values, largest = inputs[fold] / scale, float((magnitude / scale).max())
            made.append(_Part(values, outputs[fold], stored * weight_scale, largest))
        return made

    strength, best, cost = None, parts(None), math.inf
    for candidate in (None, *STRENGTHS) if scaled else ():
        tried = parts(candidate)
        if (found := _cost(tried, [part.amax for part in tried])) < cost:
            strength, best, cost = candidate, tried, found

    amaxes = [part.amax for part in best]
    ranges = {f"{share:g} of the largest": [share * a for a in amaxes] for share in SHARES}
    for name, read in methods.items():
        histograms = [_histogram(best, but=fold) for fold in range(FOLDS)]
        ranges[name] = [min(read(h), a) for h, a in zip(histograms, amaxes, strict=True)]
    method = min(ranges, key=lambda name: _cost(best, ranges[name]))

    magnitude = np.maximum(high - shift, shift - low)
    scale = _scale(magnitude, weight, strength)
    values = np.concatenate(inputs).astype(np.float32) / scale
    largest = float((magnitude / scale).max())
    if method in methods:
        amax = min(methods[method](_histogram(best)), largest)
    else:
        amax = largest * ranges[method][0] / amaxes[0]
    error = fake_quantized(values, amax) - values
    return Range(
        amax=amax,
        method=method,
        before=before,
        largest=largest,
        strength=strength,
        scale=() if strength is None else tuple(scale.tolist()),
        shift=shift,
        mean=tuple(values.mean(0, dtype=np.float64).tolist()),
        error=tuple(error.mean(0, dtype=np.float64).tolist()),
        clip=tuple(
            _clip(values[:: -(-len(values) // CLIP_TOKENS)], weight * scale[:, None]).tolist()
        ),
        sqnr_db=round(_sqnr(best, ranges[method]), 2),
    )


def _scale(magnitude: Floats, weight: Floats, strength: float | None) -> Floats:
    """The divisor of each channel, [C]. magnitude: the largest magnitude of each channel, [C].

    SmoothQuant's max|x|^strength / max|w|^(1 - strength), times a constant so that the range after
    migration is that of the median channel before it.
    """
    if strength is None:
        return np.ones_like(magnitude)
    size = np.maximum(magnitude, magnitude.max() * SMALLEST).astype(np.float64)
    rows = np.abs(weight).max(axis=1).astype(np.float64)
    rows = np.maximum(rows, rows.max() * SMALLEST)
    scale = size**strength / rows ** (1 - strength)
    scale *= (size / scale).max() / np.median(size)
    return np.asarray(scale, np.float32)


def _clip(values: Floats, weight: Floats) -> Floats:
    """For each output channel the one of `CLIPS` with the smallest output error, [outputs]."""
    best, least = np.ones(weight.shape[1], np.float32), np.full(weight.shape[1], np.inf)
    for clip in CLIPS:
        stored, scale = quantized_weight(weight, np.full_like(best, clip))
        errors = values @ (stored * scale - weight)
        variance = errors.var(axis=0)  # the bias correction removes the mean
        best = np.where(variance < least, np.float32(clip), best)
        least = np.minimum(variance, least)
    return best


def _cost(parts: list[_Part], ranges: list[float]) -> float:
    """The sum over tokens of (squared error)²: few large errors outweigh many small ones.

    ranges: the range with which each part is quantised.
    """
    return sum(
        float((part.errors(amax) ** 2).sum()) for part, amax in zip(parts, ranges, strict=True)
    )


def _sqnr(parts: list[_Part], ranges: list[float]) -> float:
    """SQNR of the Linears' output, in dB."""
    noise = sum(part.errors(amax).sum() for part, amax in zip(parts, ranges, strict=True))
    signal = sum((part.output.astype(np.float64) ** 2).sum() for part in parts)
    return 10 * math.log10(max(float(signal), 1e-300) / max(float(noise), 1e-300))


def _histogram(parts: list[_Part], but: int | None = None) -> Histogram:
    """The histogram of all parts except fold `but`."""
    histogram = Histogram()
    for fold, part in enumerate(parts):
        if fold != but:
            histogram.add(part.values)
    return histogram
