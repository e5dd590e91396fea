"""The stages of a build as commands of their own: a file in, a file out."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from edge.build import export as exporting
from edge.build import graph, images
from edge.build import simplify as simplifying
from edge.build.models.checkpoint import read_checkpoint
from edge.build.models.tasks import Request
from edge.build.observer import Observer
from edge.build.plan import describe, make_forms
from edge.build.precision import calibrate as calibrating
from edge.build.precision.ranges import Ranges
from edge.errors import GraphError
from edge.preprocess.spec import Preprocess
from edge.storage import check_target

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
    few = images.few(images.find(folder), found.preprocess, COMPARED, observer.warn)
    model, difference = exporting.export(found, few)
    graph.save(model, out)
    observer.done(f"{out}; max difference to the checkpoint {difference:.2g}")


def simplify(source: Path, folder: Path, out: Path, observer: Observer) -> None:
    """Graph file -> simpler graph file."""
    check_target(out)
    model = graph.load(source)
    observer.stage("simplify")
    few = images.few(images.find(folder), _preprocess(model), COMPARED, observer.warn)
    simpler, difference = simplifying.simplify(model, few)
    graph.save(simpler, out)
    observer.done(f"{out}; {len(simpler.graph.node)} nodes; max difference {difference:.2g}")


def calibrate(source: Path, folder: Path, method: str, out: Path, observer: Observer) -> None:
    """FP32 graph file and images -> range file."""
    check_target(out)
    model = graph.load(source)
    files = images.find(folder)
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
