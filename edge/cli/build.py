"""The commands that build engines: `edge build`, and its stages one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from edge.cli.app import app, console, say_unjudged
from edge.cli.options import (
    EngineArgument,
    GraphArgument,
    ImageSizeOption,
    ImagesOption,
    LabelsOption,
    NormaliseOption,
    OutOption,
    PoolingOption,
    TaskOption,
    TemplateOption,
)
from edge.engine.choices import Method, PlanBackend, Precision, PrecisionChoice

__all__ = ["app"]


@app.command()
def build(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Hugging Face checkpoint: a folder or a hub id")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="folder of images of your domain, 20 or more; 16 with --heldout"),
    ] = None,
    heldout: Annotated[
        Path | None,
        typer.Option(help="folder of held-out images; default: every fifth of --calibration"),
    ] = None,
    task: TaskOption = None,
    pooling: PoolingOption = None,
    normalise: NormaliseOption = False,
    image_size: ImageSizeOption = None,
    labels: LabelsOption = None,
    template: TemplateOption = None,
    precision: Annotated[
        PrecisionChoice | None,
        typer.Option(
            metavar="PRECISION",
            case_sensitive=False,
            help="fp32, fp16, int8, fp8, or auto, the fastest that passes the gate; default int8",
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            metavar="METHOD",
            case_sensitive=False,
            help=f"how INT8 ranges are chosen: {', '.join(get_args(Method))}; default auto",
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="largest batch of the plan; default 1")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the engine")] = None,
    engines: Annotated[Path | None, typer.Option(help="folder of all engines")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="gate: percent agreement with FP32; default 99"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="gate: percentage points of top-1 that may be lost"),
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="ranges file of edge calibrate, instead of calibrating")
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="ONNX graph that has Q/DQ nodes, used unchanged")
    ] = None,
    also: Annotated[
        str | None, typer.Option(help="quantise more: attention,patch,head,residual")
    ] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="publish without evaluating")] = False,
    no_witnesses: Annotated[
        bool,
        typer.Option("--no-witnesses", help="store synthetic images in the engine, not held-out"),
    ] = False,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with these settings")] = None,
) -> None:
    """Build an engine: export, simplify, calibrate, quantize, verify, compile."""
    from edge.builder import pipeline, recipes
    from edge.builder.models.texts import read_labels

    given: dict[str, Any] = {
        "checkpoint": checkpoint,
        "calibration": calibration,
        "heldout": heldout,
        "task": task,
        "pooling": pooling,
        "normalise": normalise or None,
        "image_size": image_size,
        "labels": read_labels(labels) if labels is not None else None,
        "templates": template,
        "precision": precision,
        "method": method,
        "max_batch": max_batch,
        "name": name,
        "engines": engines,
        "min_agreement": min_agreement,
        "max_drop": max_drop,
        "ranges": ranges,
        "graph": graph,
        "also": [place.strip() for place in also.split(",")] if also else None,
        "gate": False if no_gate else None,
        "witnesses": False if no_witnesses else None,
    }
    built = pipeline.build(recipes.load(recipe, given), console)
    if not built.fresh:
        console.info(f"{built.folder} is up to date")
    say_unjudged(built.folder, built.passport.judged)
    print(built.folder)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Hugging Face checkpoint: a folder or hub id")],
    images: ImagesOption,
    out: OutOption = Path("model.onnx"),
    task: TaskOption = None,
    pooling: PoolingOption = None,
    normalise: NormaliseOption = False,
    labels: LabelsOption = None,
    template: TemplateOption = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Checkpoint -> ONNX graph, compared with the checkpoint on real images."""
    from edge.builder import stages
    from edge.builder.models.tasks import Request
    from edge.builder.models.texts import read_labels

    texts = (tuple(read_labels(labels)) if labels is not None else (), tuple(template or ()))
    request = Request(task, pooling, normalise, *texts, image_size=image_size)
    stages.export(checkpoint, images, out, console, request)


@app.command()
def simplify(graph: GraphArgument, images: ImagesOption, out: OutOption) -> None:
    """Graph -> simpler graph with onnxsim, compared with the original."""
    from edge.builder import stages

    stages.simplify(graph, images, out, console)


@app.command()
def calibrate(
    graph: GraphArgument,
    images: ImagesOption,
    out: OutOption = Path("ranges.json"),
    method: Annotated[
        Method,
        typer.Option(
            metavar="METHOD",
            case_sensitive=False,
            help=f"how ranges are chosen: {', '.join(get_args(Method))}",
        ),
    ] = "auto",
) -> None:
    """Images -> activation ranges, through the FP32 graph."""
    from edge.builder import stages

    stages.calibrate(graph, images, method, out, console)


@app.command()
def quantize(
    graph: GraphArgument,
    out: OutOption,
    precision: Annotated[Precision, typer.Option(case_sensitive=False)] = "int8",
    ranges: Annotated[
        Path | None, typer.Option(help="ranges file of edge calibrate, for int8")
    ] = None,
) -> None:
    """FP32 graph -> FP16 graph, or INT8 Q/DQ graph with its ranges."""
    from edge.builder import stages

    stages.quantize(graph, precision, ranges, out, console)


@app.command("compile")
def compile_(
    engine: EngineArgument,
    backend: Annotated[
        PlanBackend | None,
        typer.Option(case_sensitive=False, help="default: the best on this machine"),
    ] = None,
) -> None:
    """Compile the plan of an engine on the machine that will run it; does not need torch."""
    from edge.builder.plan import compile_engine

    passport = compile_engine(engine, backend, console)
    say_unjudged(engine, passport.judged)
    print(engine / "model.plan")
