"""The commands that use engines: parse, call, print. Data goes to stdout, words to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.app import console, say_unjudged
from edge.cli_build import app  # the commands that make engines are on it
from edge.errors import ImageError, MissingPackage, require
from edge.options import Backend, BackendOption, EngineArgument, OutOption, ThreadsOption

if TYPE_CHECKING:
    from edge.run.engine import Engine

__all__ = ["app"]


@app.command()
def run(
    engine: Annotated[
        Path | None, typer.Argument(metavar="ENGINE", help="folder made by edge build")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="test://ball, file, /dev/video0, rtsp://, ...")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file for all of this; SIGHUP reads it anew (docs/service.md)"),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="what executes the engine  [default: auto]")
    ] = None,
    threads: ThreadsOption = None,
    frames: Annotated[int | None, typer.Option(min=1, help="stop after so many")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="label each N-th frame only")] = None,
    max_fps: Annotated[
        float | None, typer.Option(min=0.001, help="label at most so many a second, per source")
    ] = None,
    realtime: Annotated[
        bool | None, typer.Option("--realtime", help="play files at their own speed")
    ] = None,
    loop: Annotated[bool | None, typer.Option("--loop", help="play files again and again")] = None,
    stall: Annotated[
        float | None,
        typer.Option(min=0.1, help="seconds of silence after which a camera is reopened"),
    ] = None,
    reconnect: Annotated[
        bool | None,
        typer.Option(help="reopen cameras that fail or end; else that ends them"),
    ] = None,
    wait: Annotated[
        bool | None, typer.Option("--wait", help="keep trying even if no camera has come yet")
    ] = None,
    summary: Annotated[Path | None, typer.Option(help="JSON file for what was measured")] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG file for a labelled frame")] = None,
) -> None:
    """Label the frames of cameras, streams and files: JSON lines on stdout."""
    given = {name: value for name, value in locals().items() if name != "config"}
    if config is None and not (engine and source):
        raise typer.BadParameter("name an ENGINE and a --source, or a --config that has both")
    from edge import report
    from edge.run import loop as loops
    from edge.run import sinks
    from edge.run.camera import feed, named
    from edge.run.cameras import Camera
    from edge.run.config import Config, load, merge
    from edge.run.narrator import Narrator
    from edge.run.reader import Feed
    from edge.run.reload import Reload
    from edge.run.service import StatusLine, Systemd, Watchdog
    from edge.run.status import Status
    from edge.storage import check_target, write_bytes

    stop, hangup = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if config is not None:
        signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    wanted = merge(load(config) if config else Config(), given)
    wanted = replace(wanted, cameras=tuple(named(wanted.cameras)))
    if wanted.summary:
        check_target(wanted.summary)
    outputs: list[sinks.Sink] = [Narrator(console.say, console.warn), sinks.JsonLines(sys.stdout)]
    if wanted.preview:
        outputs.append(sinks.Preview(wanted.preview))
    systemd = Systemd.of(os.environ, console.warn)
    status, control = Status(), loops.Control()
    watchdog, line = Watchdog(systemd), StatusLine(systemd, status)

    def ended(measured: loops.Summary) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # the next one ends it at once
            signal.signal(number, signal.default_int_handler)
        text = measured.to_json()
        if wanted.summary:
            write_bytes(wanted.summary, f"{text}\n".encode())
        console.say(report.summary(json.loads(text)))

    assert wanted.engine is not None  # merge() has seen to it
    with _open(wanted.engine, wanted.backend, wanted.threads) as model:

        def opened(camera: Camera) -> Feed:
            return feed(camera, model.device, keep=wanted.reconnect)

        reload = None
        if config is not None:
            reload = Reload(config, given, wanted, control, opened, console.say, console.warn)

        def beat() -> None:
            now = time.monotonic()
            watchdog.beat(now)
            line.beat(now)
            if reload is not None and hangup.is_set():
                hangup.clear()
                with systemd.reloading():
                    reload()

        feeds = [opened(camera) for camera in wanted.cameras]
        systemd.ready(f"{wanted.engine} on {model.backend}, {len(feeds)} cameras")
        try:
            loops.run(
                model,
                feeds,
                outputs,
                frames=wanted.frames,
                stop=stop,
                status=status,
                control=control,
                wait=wanted.wait,
                beat=beat,
                ended=ended,
            )
        finally:
            systemd.stopping()


@app.command()
def preprocess(
    engine: EngineArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    out: OutOption,
) -> None:
    """Write the very tensor that the network sees of a picture, as .npy: float32 [3, H, W]."""
    from edge.passport import Passport
    from edge.preprocess.cpu import write_tensor

    write_tensor(Passport.read(engine).preprocess, image, out)
    console.say(f"{out}: what the network sees of {image}")


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
    say_unjudged(engine, passport.judged)


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

    model = Engine.open(folder, backend=backend, threads=threads, say=console.say)
    console.say(f"{folder}: {model.backend} ({model.reason}); {model.frame_path}")
    say_unjudged(folder, model.passport.judged)
    return model
