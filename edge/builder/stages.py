"""The stages of a build as separate commands: each reads a file and writes a file."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from edge.builder import export as exporting
from edge.builder import graph, image_sets
from edge.builder import simplify as simplifying
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import Request
from edge.builder.observer import Observer
from edge.builder.plan import describe, make_forms
from edge.builder.precision import calibrate as calibrating
from edge.builder.precision.ranges import Ranges
from edge.errors import GraphError
from edge.files.storage import check_target
from edge.preprocess.spec import Preprocess

__all__ = ["calibrate", "export", "quantize", "simplify"]

COMPARED = 4  # images on which a graph is compared with its input


def export(
    checkpoint: str,
    folder: Path,
    out: Path,
    observer: Observer,
    request: Request = Request(),  # noqa: B008 - frozen
) -> None:
    """Export a checkpoint to the graph file `out`, checked on images of `folder`.

    Raises `CheckpointError`, `GraphError`, `CalibrationError`.
    """
    check_target(out)
    found = read_checkpoint(checkpoint, request)
    observer.stage("export")
    files = image_sets.find(folder)
    images = image_sets.prepare_first(files, found.preprocess, COMPARED, observer.warn)
    model, difference = exporting.export(found, images)
    graph.save(model, out)
    observer.done(f"{out}; max difference to the checkpoint {difference:.2g}")


def simplify(source: Path, folder: Path, out: Path, observer: Observer) -> None:
    """Simplify the graph file `source` to the graph file `out`, checked on images of `folder`.

    Raises `GraphError`, `CalibrationError`.
    """
    check_target(out)
    model = graph.load(source)
    observer.stage("simplify")
    files = image_sets.find(folder)
    images = image_sets.prepare_first(files, _preprocess(model), COMPARED, observer.warn)
    simpler, difference = simplifying.simplify(model, images)
    graph.save(simpler, out)
    observer.done(f"{out}; {len(simpler.graph.node)} nodes; max difference {difference:.2g}")


def calibrate(source: Path, folder: Path, method: str, out: Path, observer: Observer) -> None:
    """Calibrate the FP32 graph file `source` on images of `folder`; `out`: the range table (JSON).

    method: one of `calibrate.METHODS`. Raises `GraphError`, `CalibrationError`.
    """
    check_target(out)
    model = graph.load(source)
    files = image_sets.find(folder)
    preprocess = _preprocess(model)
    observer.stage("calibrate")
    ranges = calibrating.from_images(model, files, preprocess, method, observer)
    ranges.write(out)
    observer.done(f"{out}; {len(ranges.ranges)} activations on {ranges.images} images, {method}")


def quantize(
    source: Path, precision: str, ranges: Path | None, out: Path, observer: Observer
) -> None:
    """Convert the FP32 graph file `source` to the FP16, INT8 or FP8 graph file `out`.

    ranges: the range table of `calibrate`, which INT8 and FP8 need. Raises `GraphError`,
    `CalibrationError`.
    """
    check_target(out)
    model = graph.load(source)
    observer.stage("quantize")
    table = Ranges.read(ranges) if ranges else None
    if table is not None:
        table.check(model)
    forms = make_forms(model, precision, table)
    graph.save(forms["portable"], out)
    observer.done(f"{out}; {describe(precision, forms['portable'])}")


def _preprocess(model: ModelProto) -> Preprocess:
    try:
        return Preprocess.from_dict(graph.metadata(model)["preprocess"])
    except (KeyError, ValueError) as error:
        raise GraphError(
            f"the graph's preprocessing cannot be read ({error})",
            "create the graph with edge export",
        ) from error
