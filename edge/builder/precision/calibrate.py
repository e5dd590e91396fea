"""Images -> activation ranges: how each quantised activation becomes INT8 best.

Every image is run once through the FP32 graph. What is kept of it is bounded, so memory does not
grow with the number of images: a histogram per activation for the four classic methods, a `Sample`
for `auto`, which migrates outliers and measures what each choice costs (`search.fit`).
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
CONTRAST = 8  # of 255 levels: what has no more is one colour, and a sensor's noise
SAMPLE_TOKENS = 4096  # of one activation: more change little and take long

Tensor = npt.NDArray[np.float32]


def from_images(
    model: ModelProto,
    files: Sequence[Path],
    preprocess: Preprocess,
    method: str,
    observer: Observer,
) -> Ranges:
    """Calibrate a graph on image files; those that cannot be read are named and skipped.

    Raises `CalibrationError` when fewer than `images.MINIMUM` can be read, or are of any use.
    """
    count, seen = 0, set[bytes]()
    # A picture's values are levels of 0 to 255, times `scale`, over `std`.
    least = CONTRAST * abs(preprocess.scale or 1.0) / np.array(preprocess.std or 1.0)

    def pictures() -> Iterable[Tensor]:
        nonlocal count
        for path, tensor in image_sets.prepare(files, preprocess, observer.warn):
            if not np.isfinite(tensor).all():
                raise CalibrationError(
                    f"{path} is NaN or infinity once it is prepared",
                    "correct rescale_factor, image_mean and image_std of the checkpoint",
                )
            if (np.ptp(tensor, axis=(1, 2)) > least).any():  # one colour says nothing
                seen.add(hashlib.sha256(tensor.tobytes()).digest())
            count += 1
            yield tensor
            observer.progress("images", count, len(files))

    found = calibrate(model, pictures(), method, len(files), observer.progress)
    if count < image_sets.MINIMUM:
        raise CalibrationError(
            f"only {count} of {len(files)} images could be read, {image_sets.MINIMUM} are needed",
            "add images" if count == len(files) else "add images, or replace those named above",
        )
    if len(seen) < image_sets.MINIMUM:
        raise CalibrationError(
            f"of {count} images {len(seen)} are different and not of almost one colour, "
            f"{image_sets.MINIMUM} are needed",
            "calibrate with real pictures of your domain",
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
    pictures: Iterable[Tensor],
    method: str,
    count: int,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Range]:
    """The range of every activation that a Linear of the transformer reads.

    pictures: prepared images, float32 [3, H, W] each, streamed; `count` of them are expected.
    method: one of `METHODS`. Returns activation -> range. Raises `CalibrationError` for NaN, for an
    activation that is always 0, and for too few images.
    """
    found = sites(model)
    index = graph.Index(model)
    channels = sum(index.weights[site.linears[0].weight].dims[0] for site in found)
    most = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * channels))
    # Of a large set a token of each image is too much: then only every so many images give one.
    tokens, every = max(1, most // max(count, 1)), max(1, -(-count // most))
    counters: dict[str, Histogram | Sample] = {
        site.activation: Sample(tokens, every) if method == "auto" else Histogram()
        for site in found
    }
    ran = _run(model, pictures, counters)
    if ran < (FOLDS if method == "auto" else 1):
        raise CalibrationError(
            f"only {ran} images could be read", "give other images: --calibration DIR"
        )
    ranges: dict[str, Range] = {}
    # Values first: their channels may be of any size, and how large an error in one is, only shows
    # once they are migrated.
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
    model: ModelProto, pictures: Iterable[Tensor], counters: dict[str, Histogram | Sample]
) -> int:
    """Run the pictures, and let each counter see its activation. Returns how many there were."""
    tensors = sorted(counters)
    probed = graph.skeleton(model)
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors
    )
    session = graph.session(probed, weights=model)
    ran = 0
    for picture in pictures:
        for name, values in zip(tensors, session.run(picture[None], tensors), strict=True):
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
    """The weights of a site's Linears side by side, [C, outputs], values already migrated."""
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
