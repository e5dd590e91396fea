"""The commands that use engines. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.app import app, check_engine, console, open_engine, refuse, say_unjudged
from edge.cli.options import (
    BackendOption,
    EngineArgument,
    ImagesArgument,
    OutOption,
    ThreadsOption,
)
from edge.errors import EngineError, ImageError, MissingPackage, require

__all__ = ["app"]


@app.command()
def preprocess(
    engine: EngineArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    out: OutOption,
) -> None:
    """Write the network's input tensor for an image as .npy: float32 [3, H, W]."""
    from edge.engine.passport import Passport
    from edge.preprocess.cpu import write_tensor

    write_tensor(Passport.read(engine).preprocess, image, out)
    console.info(f"{out}: the network's input for {image}")


@app.command()
def classify(
    engine: EngineArgument,
    images: ImagesArgument,
    top: Annotated[int, typer.Option(min=1, help="classes in each result")] = 5,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Label images: one JSON line each on stdout."""
    failed = 0
    with open_engine(engine, backend, threads) as model:
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
def embed(
    engine: EngineArgument,
    images: ImagesArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=".npy file for all: float32 [N, channels]")
    ] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Embed images: one JSON line each on stdout, or one .npy file for all."""
    from edge.files.npy import check_npy, write_npy

    if out:
        check_npy(out)
    failed, rows = 0, []
    with open_engine(engine, backend, threads) as model:
        for path in images:
            try:
                vector = model.embed(path)
            except ImageError as error:
                if out:  # a missing row would shift all others
                    raise
                console.error(str(error))
                failed += 1
                continue
            if out:
                rows.append(vector)
            else:  # the fewest digits that reproduce the float32
                numbers = [float(str(value)) for value in vector]
                print(json.dumps({"image": str(path), "embedding": numbers}), flush=True)
    if out:
        write_npy(out, rows)
        console.info(f"{out}: {len(rows)} embeddings")
    if failed:
        raise typer.Exit(1)


@app.command()
def inspect(
    engine: EngineArgument,
    as_json: Annotated[bool, typer.Option("--json", help="print passport.json")] = False,
) -> None:
    """Show what an engine is, its origin and measurements, and check that it is intact."""
    from edge.engine import describe
    from edge.engine.passport import Passport
    from edge.files.reading import read_text

    passport = Passport.read(engine)
    passport.check_files(engine)
    if as_json:
        print(read_text(engine / "passport.json"), end="")
    else:
        try:
            require("onnx")
        except MissingPackage as missing:  # a device that only runs plans does not need onnx
            facts = [("placement", f"not proved: {missing}")]
        else:
            from edge.builder.report.layer_counts import prove

            facts = prove(engine, passport)
        print(describe.describe(engine, passport, facts))
    say_unjudged(engine, passport.judged)


@app.command()
def check(
    engine: EngineArgument,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Compare an engine's answers with FP32's here, on the images that it carries."""
    found = check_engine(engine, backend, threads)
    print(json.dumps({"engine": str(engine), **found.to_dict()}), flush=True)
    refuse(engine, found)


@app.command()
def bench(
    engines: Annotated[list[Path], typer.Argument(metavar="ENGINE...", readable=False)],
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="number of turns for each engine")] = 50,
) -> None:
    """Time engines side by side, one image at a time: one JSON line each on stdout."""
    from contextlib import ExitStack

    from edge.engine.bench import side_by_side

    failed, opened = 0, {}
    with ExitStack() as stack:
        for path in engines:
            if path.suffix == ".toml" and path.is_file():  # of engines/*
                console.info(f"{path} is a recipe, not an engine: it is left out")
                continue
            try:
                opened[str(path)] = stack.enter_context(open_engine(path, backend, threads))
            except EngineError as error:
                console.error(str(error))
                failed += 1
        for row in side_by_side(opened, rounds) if opened else []:
            print(json.dumps(row), flush=True)
    if not (opened or failed):
        raise EngineError("no engine was given", "give folders made by edge build: engines/NAME")
    if failed:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Show what is installed, what works here, and how to fix the rest."""
    from edge.cli.doctor import examine

    for check in examine():
        print(check.line())
