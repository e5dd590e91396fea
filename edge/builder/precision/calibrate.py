"""Calibration: the range of every activation to quantise, measured on images.

Every image runs once through the FP32 graph. Memory does not grow with the number of images: the
four classic methods keep a histogram per activation, and `auto`, which migrates outliers and
measures the error of each choice (`range_search.fit`), keeps a `Sample`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from edge.builder import graph, image_sets
from edge.builder.observer import Observer
from edge.builder.precision import histogram as histograms
from edge.builder.precision import range_search
from edge.builder.precision.histogram import Histogram
from edge.builder.precision.migrate import can_scale
from edge.builder.precision.ranges import Range, Ranges
from edge.builder.precision.samples import FOLDS, Sample
from edge.builder.precision.sites import Site, sites
from edge.errors import CalibrationError
from edge.preprocess.spec import Preprocess

__all__ = ["METHODS", "calibrate", "from_images"]

METHODS = ("auto", *histograms.METHODS)
SAMPLE_BYTES = 192_000_000  # of all activations together
CONTRAST = 8  # of 255 levels: an image with less is of one colour, except for sensor noise
SAMPLE_TOKENS = 4096  # of one activation: more change the result little and take longer

Tensor = npt.NDArray[np.float32]


def from_images(
    model: ModelProto,
    files: Sequence[Path],
    preprocess: Preprocess,
    method: str,
    observer: Observer,
) -> Ranges:
    """Calibrate a graph on image files; unreadable ones are reported and skipped.

    Raises `CalibrationError` when fewer than `image_sets.MINIMUM` images can be read, or fewer than
    that are different and not of almost one colour.
    """
    count, distinct = 0, set[bytes]()
    # The prepared values are levels of 0 to 255, times `scale`, divided by `std`.
    least = CONTRAST * abs(preprocess.scale or 1.0) / np.array(preprocess.std or 1.0)

    def images() -> Iterable[Tensor]:
        nonlocal count
        for path, tensor in image_sets.prepare(files, preprocess, observer.warn):
            if not np.isfinite(tensor).all():
                raise CalibrationError(
                    f"{path} is NaN or infinity after preprocessing",
                    "correct rescale_factor, image_mean and image_std of the checkpoint",
                )
            if (np.ptp(tensor, axis=(1, 2)) > least).any():  # an image of one colour is of no use
                distinct.add(hashlib.sha256(tensor.tobytes()).digest())
            count += 1
            yield tensor
            observer.progress("images", count, len(files))

    found = calibrate(model, images(), method, len(files), observer.progress)
    if count < image_sets.MINIMUM:
        raise CalibrationError(
            f"only {count} of {len(files)} images could be read, {image_sets.MINIMUM} are needed",
            "add images" if count == len(files) else "add images, or replace the unreadable ones",
        )
    if len(distinct) < image_sets.MINIMUM:
        raise CalibrationError(
            f"only {len(distinct)} of {count} images are different and not of almost one colour, "
            f"{image_sets.MINIMUM} are needed",
            "calibrate with real images of your domain",
        )
    return Ranges(
        method=method,
        images=count,
        set_sha256=image_sets.digest(files),
        ranges=found,
        graph_sha256=graph.fingerprint(model),
    )


def calibrate(
    model: ModelProto,
    images: Iterable[Tensor],
    method: str,
    count: int,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Range]:
    """The range of every activation that a Linear of the transformer reads: activation -> range.

    images: prepared images, float32 [3, H, W] each, streamed. count: their expected number.
    method: one of `METHODS`. Raises `CalibrationError` for NaN, for an activation that is always 0,
    and for too few images.
    """
    found = sites(model)
    index = graph.Index(model)
    channels = sum(index.weights[site.linears[0].weight].dims[0] for site in found)
    most = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * channels))
    # With a large set even one token per image is too much: then only every n-th image keeps one.
    tokens, every = max(1, most // max(count, 1)), max(1, -(-count // most))
    counters: dict[str, Histogram | Sample] = {
        site.activation: Sample(tokens, every) if method == "auto" else Histogram()
        for site in found
    }
    ran = _run(model, images, counters)
    if ran < (FOLDS if method == "auto" else 1):
        raise CalibrationError(
            f"only {ran} images could be read", "give other images: --calibration DIR"
        )
    ranges: dict[str, Range] = {}
    # Values come first: their channels have very different sizes, and an error in one of them can
    # only be weighed after their migration.
    for number, site in enumerate(sorted(found, key=lambda site: site.values is None)):
        name, counter = site.activation, counters[site.activation]
        largest = _largest(counter)
        if not largest > 0:
            raise CalibrationError(
                f"{name} is 0 on all {ran} calibration images", "calibrate with other images"
            )
        if isinstance(counter, Sample):
            ranges[name] = range_search.fit(
                counter,
                _weight(index, site, found, ranges),
                histograms.METHODS,
                scaled=can_scale(site),
                shifted=not can_scale(site),
            )
        else:
            ranges[name] = Range(histograms.METHODS[method](counter), method, largest, largest)
        progress("ranges", number + 1, len(found))
    return ranges


def _run(
    model: ModelProto, images: Iterable[Tensor], counters: dict[str, Histogram | Sample]
) -> int:
    """Run the images and add each activation to its counter; returns the number of images."""
    tensors = sorted(counters)
    probed = graph.skeleton(model)
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors
    )
    session = graph.session(probed, weights=model)
    ran = 0
    for image in images:
        for name, values in zip(tensors, session.run(image[None], tensors), strict=True):
            try:
                counters[name].add(values)
            except ValueError as error:
                raise CalibrationError(
                    f"{name} has {error} on calibration image {ran + 1}",
                    "check the checkpoint's weights and the image",
                ) from error
        ran += 1
    return ran


def _largest(counter: Histogram | Sample) -> float:
    if isinstance(counter, Histogram):
        return counter.amax
    low, high = counter.extremes()
    return float(max(high.max(), -low.min()))


def _weight(
    index: graph.Index, site: Site, everywhere: Sequence[Site], ranges: dict[str, Range]
) -> Tensor:
    """The weights of a site's Linears side by side, [C, outputs], with value channels migrated."""
    parts = []
    for linear in site.linears:
        weight = index.array(linear.weight).astype(np.float32)
        for other in everywhere:
            if other.values is None or other.values.node.input[1] != linear.weight:
                continue
            scale = np.array(ranges[other.activation].scale, np.float32)
            weight[:, other.values.first : other.values.first + len(scale)] /= scale
        parts.append(weight)
    return np.concatenate(parts, axis=1)
