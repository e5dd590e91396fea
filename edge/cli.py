"""The command `edge`: parse, call, print. Data goes to stdout, words for people to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edge import __version__
from edge.console import Console
from edge.errors import EdgeError, ImageError, MissingPackage, require
from edge.options import (
    Backend,
    BackendOption,
    EngineArgument,
    GraphArgument,
    ImagesOption,
    Method,
    OutOption,
    Plans,
    Precision,
    ThreadsOption,
    Wanted,
)

if TYPE_CHECKING:
    from edge.run.engine import Engine

STOPPED = "stopped, nothing half-made is left; run the same command again"

console = Console()


class Commands(TyperGroup):
    """The one place where an error becomes a line for people and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except EdgeError as error:
            if os.environ.get("EDGE_DEBUG"):
                raise
            problem = str(error)
        except KeyboardInterrupt:
            problem = STOPPED
        finally:
            console.close()
        console.error(problem)
        raise typer.Exit(1)


app = typer.Typer(
    name="edge",
    cls=Commands,
    help="A Hugging Face ViT becomes a TensorRT engine you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vit-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="errors with traceback")] = False,
) -> None:
    if debug:
        os.environ["EDGE_DEBUG"] = "1"


@app.command()
def build(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Hugging Face checkpoint: a folder or a hub id")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="folder of images of your domain, 16 or more")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="folder of images that judge; else every fifth of those")
    ] = None,
    precision: Annotated[
        Wanted | None, typer.Option(help="default int8; auto: the best that passes the gate")
    ] = None,
    calibration_method: Annotated[
        Method | None, typer.Option(help="how INT8 ranges are chosen; default auto")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="largest batch of the plan; default 1")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the engine")] = None,
    engines: Annotated[Path | None, typer.Option(help="where engines live")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="the gate: percent of top-1 equal to FP32; default 99"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="the gate: points of top-1 that may be lost"),
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="table of edge calibrate, instead of calibrating")
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="ONNX graph with Q/DQ of its own, taken as it is")
    ] = None,
    also: Annotated[
        str | None, typer.Option(help="quantise more: attention,patch,head,residual")
    ] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="publish unjudged")] = False,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with these settings")] = None,
) -> None:
    """Build an engine: export, simplify, calibrate, quantize, verify, compile."""
    from edge.build import pipeline, recipes

    given: dict[str, Any] = {
        "checkpoint": checkpoint,
        "calibration": calibration,
        "heldout": heldout,
        "precision": precision,
        "method": calibration_method,
        "max_batch": max_batch,
        "name": name,
        "engines": engines,
        "min_agreement": min_agreement,
        "max_drop": max_drop,
        "ranges": ranges,
        "graph": graph,
        "also": [place.strip() for place in also.split(",")] if also else None,
        "gate": False if no_gate else None,
    }
    built = pipeline.build(recipes.load(recipe, given), console)
    if not built.fresh:
        console.say(f"{built.folder} is up to date")
    _say_unjudged(built.folder, built.passport.judged)
    print(built.folder)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Hugging Face checkpoint: a folder or hub id")],
    images: ImagesOption,
    out: OutOption = Path("model.onnx"),
) -> None:
    """Checkpoint -> ONNX graph, compared with the checkpoint on real images."""
    from edge.build import stages

    stages.export(checkpoint, images, out, console)


@app.command()
def simplify(graph: GraphArgument, images: ImagesOption, out: OutOption) -> None:
    """Graph -> simpler graph with onnxsim, compared with what went in."""
    from edge.build import stages

    stages.simplify(graph, images, out, console)


@app.command()
def calibrate(
    graph: GraphArgument,
    images: ImagesOption,
    out: OutOption = Path("ranges.json"),
    method: Annotated[Method, typer.Option(help="how ranges are chosen")] = "auto",
) -> None:
    """Images -> activation ranges, through the FP32 graph."""
    from edge.build import stages

    stages.calibrate(graph, images, method, out, console)


@app.command()
def quantize(
    graph: GraphArgument,
    out: OutOption,
    precision: Annotated[Precision, typer.Option()] = "int8",
    ranges: Annotated[Path | None, typer.Option(help="of edge calibrate; for int8")] = None,
) -> None:
    """FP32 graph -> FP16 graph, or INT8 Q/DQ graph with its ranges."""
    from edge.build import stages

    stages.quantize(graph, precision, ranges, out, console)


@app.command("compile")
def compile_(
    engine: EngineArgument,
    backend: Annotated[Plans | None, typer.Option(help="default: the best here")] = None,
) -> None:
    """Make an engine's plan on the machine that will run it; needs no torch."""
    from edge.build.plan import compile_engine

    passport = compile_engine(engine, backend, console)
    _say_unjudged(engine, passport.judged)
    print(engine / "model.plan")


@app.command()
def run(
    engine: EngineArgument,
    source: Annotated[list[str], typer.Option(help="test://ball, file, /dev/video0, rtsp://, ...")],
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    frames: Annotated[int | None, typer.Option(min=1, help="stop after so many")] = None,
    realtime: Annotated[bool, typer.Option(help="play files at their own speed")] = False,
    summary: Annotated[Path | None, typer.Option(help="JSON file for what was measured")] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG file for a labelled frame")] = None,
) -> None:
    """Label the frames of cameras, streams and files: JSON lines on stdout."""
    from edge import report
    from edge.run import loop, sinks
    from edge.run.camera import Source
    from edge.storage import check_target, write_bytes

    if summary:
        check_target(summary)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    outputs: list[sinks.Sink] = [sinks.JsonLines(sys.stdout)]
    if preview:
        outputs.append(sinks.Preview(preview))

    def ended(measured: loop.Summary) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # the next one ends it at once
            signal.signal(number, signal.default_int_handler)
        text = measured.to_json()
        if summary:
            write_bytes(summary, f"{text}\n".encode())
        console.say(report.summary(json.loads(text)))

    with _open(engine, backend, threads) as model:
        sources = [Source(uri, realtime=realtime) for uri in source]
        loop.run(model, sources, outputs, frames=frames, stop=stop, ended=ended)


@app.command()
def classify(
    engine: EngineArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    top: Annotated[int, typer.Option(min=1, help="classes in each result")] = 5,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Label pictures: one JSON line each on stdout."""
    failed = 0
    with _open(engine, backend, threads) as model:
        for path in images:
            try:
                found = model(path).top(top)
            except ImageError as error:
                console.error(str(error))
                failed += 1
                continue
            classes = [
                {"label": label, "class_id": number, "confidence": round(confidence, 6)}
                for number, label, confidence in found
            ]
            print(json.dumps({"image": str(path), "top": classes}), flush=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def inspect(
    engine: EngineArgument,
    as_json: Annotated[bool, typer.Option("--json", help="the passport as it is")] = False,
) -> None:
    """What an engine is, what it was built from, what it was measured at, and if it is whole."""
    from edge import report
    from edge.passport import Passport

    passport = Passport.read(engine)
    for name in passport.files:
        passport.check_file(engine, name)
    if as_json:
        print((engine / "passport.json").read_text(), end="")
    else:
        try:
            require("onnx")
        except MissingPackage as missing:  # a device that only runs plans needs none
            facts = [("placement", f"not proved: {missing}")]
        else:
            from edge.build.proof import prove

            facts = prove(engine, passport)
        print(report.describe(engine, passport, facts))
    _say_unjudged(engine, passport.judged)


@app.command()
def bench(
    engines: Annotated[list[Path], typer.Argument(metavar="ENGINE...")],
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns that each engine gets")] = 50,
) -> None:
    """Time engines side by side, one picture at a time: one JSON line each on stdout."""
    from contextlib import ExitStack

    from edge.bench import side_by_side

    with ExitStack() as stack:
        opened = {str(path): stack.enter_context(_open(path, backend, threads)) for path in engines}
        for row in side_by_side(opened, rounds):
            print(json.dumps(row), flush=True)


@app.command()
def doctor() -> None:
    """What is installed, what works here, and what to do about the rest."""
    from edge.doctor import examine

    for check in examine():
        print(check.line())


def _open(folder: Path, backend: Backend, threads: int | None) -> Engine:
    """Open an engine and say, once, what runs it and why."""
    from edge.run.engine import Engine

    model = Engine.open(folder, backend=backend, threads=threads)
    console.say(f"{folder}: {model.backend} ({model.reason}); {model.frame_path}")
    _say_unjudged(folder, model.passport.judged)
    return model


def _say_unjudged(folder: Path, judged: bool) -> None:
    if not judged:
        console.warn(f"{folder} was published without a gate: its accuracy is not judged")
