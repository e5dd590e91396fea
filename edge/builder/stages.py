"""The stages of a build as commands of their own: a file in, a file out."""

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

COMPARED = 4  # images on which a graph is compared with what it was made from


def export(
    checkpoint: str,
    folder: Path,
    out: Path,
    observer: Observer,
    request: Request = Request(),  # noqa: B008 - frozen
) -> None:
    """Checkpoint -> graph file."""
    check_target(out)
    found = read_checkpoint(checkpoint, request)
    observer.stage("export")
    few = image_sets.few(image_sets.find(folder), found.preprocess, COMPARED, observer.warn)
    model, difference = exporting.export(found, few)
    graph.save(model, out)
    observer.done(f"{out}; max difference to the checkpoint {difference:.2g}")


def simplify(source: Path, folder: Path, out: Path, observer: Observer) -> None:
    """Graph file -> simpler graph file."""
    check_target(out)
    model = graph.load(source)
    observer.stage("simplify")
    few = image_sets.few(image_sets.find(folder), _preprocess(model), COMPARED, observer.warn)
    simpler, difference = simplifying.simplify(model, few)
    graph.save(simpler, out)
    observer.done(f"{out}; {len(simpler.graph.node)} nodes; max difference {difference:.2g}")


def calibrate(source: Path, folder: Path, method: str, out: Path, observer: Observer) -> None:
    """FP32 graph file and images -> range file."""
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
    """FP32 graph file -> FP16 or INT8 graph file."""
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
            f"the graph's preprocessing cannot be read ({error})", "make it with edge export"
        ) from error
