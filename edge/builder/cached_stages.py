"""The slow stages of a build, cached in `engines/.cache` while their inputs are unchanged."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path

import msgspec
from onnx import ModelProto

from edge.builder import export as exporting
from edge.builder import graph, image_sets
from edge.builder.cache import keep, kept
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.observer import Observer
from edge.builder.precision import fp16, sensitivity
from edge.builder.precision.calibrate import from_images
from edge.builder.precision.ranges import Ranges
from edge.builder.precision.sites import linears
from edge.builder.recipes import Recipe
from edge.builder.simplify import simplify
from edge.files.reading import read_bytes
from edge.files.storage import write_bytes

__all__ = ["peaks", "ranges", "sensitivities", "simplified"]

PEAK_IMAGES = 16  # images on which the tensors' peaks are measured, for FP16
COMPARED = 4  # images on which graph and checkpoint are compared after export


def simplified(
    checkpoint: Checkpoint, cache: Path, key: str, heldout_files: list[Path], observer: Observer
) -> ModelProto:
    """The exported and simplified graph of a checkpoint, from the cache if it is there.

    key: identifies the checkpoint and the tools in the cache.
    """
    path = cache / f"simplified-{key}.onnx"
    if (found := kept(path, graph.load, observer.warn)) is not None:
        observer.stage("export, simplify")
        observer.done("unchanged, from the cache")
        return found
    images = image_sets.prepare_first(heldout_files, checkpoint.preprocess, COMPARED, observer.warn)
    observer.stage("export")
    model, difference = exporting.export(checkpoint, images)
    nodes = len(model.graph.node)
    observer.done(f"{nodes} nodes; max difference to the checkpoint {difference:.2g}")
    observer.stage("simplify")
    model, difference = simplify(model, images)
    observer.done(f"{len(model.graph.node)} nodes; max difference {difference:.2g}")
    keep(graph.save(model, path))
    return model


def ranges(
    model: ModelProto,
    path: Path,
    files: list[Path],
    checkpoint: Checkpoint,
    recipe: Recipe,
    observer: Observer,
) -> Ranges:
    """The graph's activation ranges: from the recipe's table, the cache `path`, or measured.

    files: the calibration images. Raises `CalibrationError` for a table of another graph.
    """
    observer.stage("calibrate")
    if recipe.ranges is not None:
        table = Ranges.read(recipe.ranges)
        table.check(model)
        observer.done(f"ranges of {recipe.ranges}")
        return table

    def of_this_graph(path: Path) -> Ranges:
        table = Ranges.read(path)
        table.check(model)
        return table

    if (earlier := kept(path, of_this_graph, observer.warn)) is not None:
        observer.done("unchanged, from the cache")
        return earlier
    found = from_images(model, files, checkpoint.preprocess, recipe.method, observer)
    found.write(path)
    keep([path])
    observer.done(f"{len(found.ranges)} activations on {found.images} images, {recipe.method}")
    return found


def sensitivities(
    model: ModelProto,
    path: Path,
    found: Ranges,
    files: list[Path],
    checkpoint: Checkpoint,
    observer: Observer,
) -> dict[str, float]:
    """The sensitivity of each Linear, measured or from the cache `path`.

    Returns the Linear's MatMul -> SQNR of the outputs in dB with this Linear alone in INT8.
    """
    observer.stage("sensitivity")
    names = {linear.node.name for linear in linears(model)}
    if (earlier := kept(path, partial(_numbers, names), observer.warn)) is not None:
        observer.done("unchanged, from the cache")
        return earlier
    count = sensitivity.images_for(model)
    images = image_sets.prepare_first(files, checkpoint.preprocess, count, observer.warn)
    sensitivity_db = sensitivity.measure(model, found.ranges, list(images), observer.progress)
    sensitivity.write(path, sensitivity_db)
    keep([path])
    worst = min(sensitivity_db, key=lambda name: sensitivity_db[name])
    observer.done(
        f"{len(sensitivity_db)} Linears alone; the worst is {worst}, {sensitivity_db[worst]:.1f} dB"
    )
    return sensitivity_db


def peaks(
    model: ModelProto, path: Path, files: list[Path], checkpoint: Checkpoint, observer: Observer
) -> dict[str, float]:
    """The largest absolute value of each tensor on real images, measured or from the cache."""
    observer.stage("FP16 range")
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if (earlier := kept(path, partial(_numbers, names), observer.warn)) is not None:
        observer.done("unchanged, from the cache")
        return earlier
    images = image_sets.prepare_first(files, checkpoint.preprocess, PEAK_IMAGES, observer.warn)
    found = fp16.peaks(
        model, iter(images), lambda ran: observer.progress("images", ran, len(images))
    )
    write_bytes(path, (json.dumps(found, indent=1) + "\n").encode())
    keep([path])
    largest = max(found, key=lambda name: found[name])
    observer.done(f"{len(found)} tensors; {largest} reaches {found[largest]:.4g}")
    return found


def _numbers(names: Collection[str], path: Path) -> dict[str, float]:
    """A table of numbers by some names of a graph. Raises ValueError for any other content."""
    found = msgspec.json.decode(read_bytes(path), type=dict[str, float])
    if not found or (strange := set(found).difference(names)):
        raise ValueError(f"it is of another graph: {min(strange)}" if found else "it is empty")
    return found
