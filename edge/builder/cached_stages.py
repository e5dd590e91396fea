"""The stages that take long, taken from `engines/.cache` while all they depend on is unchanged."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import ModelProto

from edge.builder import export as exporting
from edge.builder import graph, image_sets
from edge.builder.cache import is_kept, keep
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.observer import Observer
from edge.builder.precision import fp16, sensitivity
from edge.builder.precision.calibrate import from_images
from edge.builder.precision.ranges import Ranges
from edge.builder.recipes import Recipe
from edge.builder.simplify import simplify
from edge.files.storage import write_bytes

__all__ = ["peaks", "ranges", "sensitivities", "simplified"]

PROBED = 16  # images on which FP16's range is looked at
COMPARED = 4  # images on which graph and checkpoint are compared after export


def simplified(
    checkpoint: Checkpoint, cache: Path, key: str, judging: list[Path], observer: Observer
) -> ModelProto:
    """The checkpoint's graph, exported and simplified, or both from the cache."""
    path = cache / f"simplified-{key}.onnx"
    if is_kept(path, observer.warn):
        observer.stage("export, simplify")
        observer.done("unchanged, from the cache")
        return graph.load(path)
    few = image_sets.few(judging, checkpoint.preprocess, COMPARED, observer.warn)
    observer.stage("export")
    model, difference = exporting.export(checkpoint, few)
    nodes = len(model.graph.node)
    observer.done(f"{nodes} nodes; max difference to the checkpoint {difference:.2g}")
    observer.stage("simplify")
    model, difference = simplify(model, few)
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
    """The graph's activation ranges on these images, or those of a table or from the cache."""
    observer.stage("calibrate")
    if recipe.ranges is not None:
        table = Ranges.read(recipe.ranges)
        table.check(model)
        observer.done(f"ranges of {recipe.ranges}")
        return table
    if is_kept(path, observer.warn):
        observer.done("unchanged, from the cache")
        return Ranges.read(path)
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
    """What each Linear costs alone, measured or from the cache."""
    observer.stage("sensitivity")
    if is_kept(path, observer.warn):
        observer.done("unchanged, from the cache")
        return sensitivity.read(path)
    count = sensitivity.images_for(model)
    pictures = image_sets.few(files, checkpoint.preprocess, count, observer.warn)
    alone_db = sensitivity.measure(model, found.ranges, list(pictures), observer.progress)
    sensitivity.write(path, alone_db)
    keep([path])
    worst = min(alone_db, key=lambda name: alone_db[name])
    observer.done(f"{len(alone_db)} Linears alone; the worst is {worst}, {alone_db[worst]:.1f} dB")
    return alone_db


def peaks(
    model: ModelProto, path: Path, files: list[Path], checkpoint: Checkpoint, observer: Observer
) -> dict[str, float]:
    """The largest absolute value of each tensor on real images; measured or from the cache."""
    observer.stage("FP16 range")
    if is_kept(path, observer.warn):
        observer.done("unchanged, from the cache")
        return dict(json.loads(path.read_text()))
    few = image_sets.few(files, checkpoint.preprocess, PROBED, observer.warn)
    found = fp16.peaks(model, iter(few), lambda ran: observer.progress("images", ran, len(few)))
    write_bytes(path, (json.dumps(found, indent=1) + "\n").encode())
    keep([path])
    largest = max(found, key=lambda name: found[name])
    observer.done(f"{len(found)} tensors; {largest} reaches {found[largest]:.4g}")
    return found
