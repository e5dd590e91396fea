"""`edge run`: what is asked for, on the command line or in a file, becomes a run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge.cli.app import app, console, open_engine
from edge.engine.choices import Backend
from edge.sources.camera import Transport

if TYPE_CHECKING:
    from edge.outputs.factory import Outputs
    from edge.run.config import Config
    from edge.run.summary import Summary
    from edge.sources.feeds import Feed

__all__ = ["app"]

_STREAMS, _FRAMES = "Sources", "Which frames"
_OUTPUTS, _WATCH = "Outputs", "Watching the run"
_APART = ("context", "config", "dry_run")  # what is no key of a configuration


@app.command()
def run(
    context: typer.Context,
    engine: Annotated[
        Path | None, typer.Argument(metavar="ENGINE", help="folder made by edge build")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="test://ball, file, /dev/video0, rtsp://, ... (docs/sources.md); again for more",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file for all of this; SIGHUP reads it anew (docs/service.md)"),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="what executes the engine  [default: auto]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of onnxruntime; all by default")
    ] = None,
    realtime: Annotated[
        bool | None,
        typer.Option("--realtime", help="play files at their own speed", rich_help_panel=_STREAMS),
    ] = None,
    loop: Annotated[
        bool | None,
        typer.Option("--loop", help="play files again and again", rich_help_panel=_STREAMS),
    ] = None,
    transport: Annotated[
        Transport | None,
        typer.Option(
            help="of RTSP: tcp, or udp, which is faster and loses packets  [default: tcp]",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="netrc file with users and passwords by host",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    stall: Annotated[
        float | None,
        typer.Option(
            help="seconds of silence after which a camera is reopened  [default: 10]",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    reconnect: Annotated[
        bool | None,
        typer.Option(
            help="reopen cameras that fail or end; else that ends them  [default: reconnect]",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait", help="keep trying even if no camera has come yet", rich_help_panel=_STREAMS
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="print the gst-launch-1.0 line of each source, and end there"
        ),
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="stop after so many", rich_help_panel=_FRAMES)
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="label each N-th frame only", rich_help_panel=_FRAMES)
    ] = None,
    max_fps: Annotated[
        float | None,
        typer.Option(
            help="label at most so many a second, per source",
            rich_help_panel=_FRAMES,
        ),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|majority:K",
            help="labels over time: 0.5s, or the majority of K frames",
            rich_help_panel=_FRAMES,
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="JSON file for what was measured", rich_help_panel=_OUTPUTS),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="PNG file for a labelled frame", rich_help_panel=_OUTPUTS)
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help='when to take a snapshot: "label=dog and confidence>0.8 for 2s"',
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    snapshots: Annotated[
        Path | None, typer.Option(help="folder for snapshots", rich_help_panel=_OUTPUTS)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(help="keep only the newest so many snapshots", rich_help_panel=_OUTPUTS),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            envvar="EDGE_RECORD",
            help="labelled video: a .mkv or .mp4 file, a folder/, or rtsp://:8554/NAME",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="EDGE_MQTT",
            help="publish to a broker: mqtt://host/prefix (docs/mqtt.md)",
            rich_help_panel=_OUTPUTS,
        ),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="live page; for this machine only, unless a HOST is named (docs/web.md)",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Prometheus metrics; for this machine only, unless a HOST is named",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="1/N",
            help="check one frame in N against --reference (docs/audit.md)",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="ENGINE", help="FP32 engine of the same checkpoint", rich_help_panel=_WATCH
        ),
    ] = None,
) -> None:
    """Label the frames of cameras, streams and files: JSON lines on stdout."""
    given = {name: value for name, value in locals().items() if name not in _APART}
    if config is None and not (engine and source):
        raise typer.BadParameter("name an ENGINE and a --source, or a --config that has both")
    from edge.files.storage import check_target
    from edge.outputs.preview import check_preview
    from edge.run.config import Config
    from edge.service.config import load, merge
    from edge.sources.camera import unused_options

    _warn_of_passwords(context)
    wanted = merge(load(config, given) if config else Config(), given)
    for key in unused_options(wanted.cameras):
        console.warn(f"{key} means nothing to these sources (docs/sources.md)")
    if wanted.summary:
        check_target(wanted.summary)
    if wanted.preview:
        check_preview(wanted.preview)
    if dry_run:
        _print_lines(wanted)
    else:
        _run(wanted, config, given)


def _warn_of_passwords(context: typer.Context) -> None:
    """Say which options hold a password that was typed, and not taken from the environment."""
    from edge.sources.uris import contains_password

    shown = []
    for name in ("source", "mqtt", "record"):
        given, origin = context.params[name], context.get_parameter_source(name)
        texts = given if isinstance(given, list) else [given or ""]
        typed = origin is not None and origin.name == "COMMANDLINE"
        if typed and any(map(contains_password, texts)):
            shown.append(f"--{name}")
    if shown:
        console.warn(
            f"whoever lists the processes (ps) sees the password in {' and '.join(shown)}; use "
            "${NAME} or a netrc file for a source, EDGE_MQTT, EDGE_RECORD, or --config"
        )


def _run(wanted: Config, path: Path | None, given: dict[str, Any]) -> None:
    """Run what is wanted; `path` and `given` are what a reload starts from."""
    from edge.outputs.factory import open_outputs
    from edge.run import loop
    from edge.run.status import Status
    from edge.service.reload import Reload
    from edge.service.systemd import StatusLine, Systemd, Watchdog
    from edge.sources.camera import Camera
    from edge.sources.gst import gstreamer
    from edge.sources.opening import check_camera, feed

    console.hurry()
    stop, hangup = threading.Event(), threading.Event()
    if path is not None:
        signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    systemd = Systemd.of(os.environ, console.warn)
    status, control = Status(), loop.Control()
    watchdog, line = Watchdog(systemd, status), StatusLine(systemd, status)
    assert wanted.engine is not None  # merge() has seen to it
    gstreamer()  # has all threads share two heaps: too late when an engine has started its own
    for camera in wanted.cameras:  # an engine may take long to open
        check_camera(camera)
    with ExitStack() as stack:
        model = stack.enter_context(open_engine(wanted.engine, wanted.backend, wanted.threads))
        model.check_labels()

        def opened(camera: Camera) -> Feed:
            return feed(camera, model.device, reconnect=wanted.reconnect, info=console.info)

        model.warm()
        feeds = [opened(camera) for camera in wanted.cameras]
        outputs = open_outputs(wanted, model, status, stack, stop, console.info, console.warn)
        # Until now they ended it where it was. A terminal that closes does, too, but for `nohup`.
        ends = [signal.SIGINT, signal.SIGTERM]
        if path is None and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            ends.append(signal.SIGHUP)
        for number in ends:
            signal.signal(number, lambda *_: stop.set())
        reload = None
        if path is not None:
            reload = Reload(path, given, wanted, control, opened, console.info, console.warn)

        def heartbeat() -> None:
            now = time.monotonic()
            watchdog.heartbeat(now)
            line.heartbeat(now)
            outputs.heartbeat()
            if reload is not None and hangup.is_set():
                hangup.clear()
                with systemd.reloading():
                    reload()

        cameras = "1 camera" if len(feeds) == 1 else f"{len(feeds)} cameras"
        systemd.ready(f"{wanted.engine} on {model.backend}, {cameras}")
        stack.callback(systemd.stopping)
        measured = loop.run(
            model,
            feeds,
            outputs.sinks,
            frames=wanted.frames,
            stop=stop,
            status=status,
            control=control,
            wait=wanted.wait,
            observe=outputs.observe,
            smooth=outputs.smoothed,
            heartbeat=heartbeat,
            on_end=lambda measured: _end(measured, outputs, wanted),
        )
    if stop.is_set() and not measured.frames:  # its cameras were not there yet: it never began
        raise KeyboardInterrupt


def _end(measured: Summary, outputs: Outputs, wanted: Config) -> None:
    """Say what was measured, however the run ended; of one that never began there is nothing."""
    from edge.engine import describe
    from edge.files.storage import write_bytes

    for number in (signal.SIGINT, signal.SIGTERM):  # the next one ends it at once
        signal.signal(number, signal.default_int_handler)
    numbers = {**asdict(measured), **outputs.numbers()}
    if measured.frames:
        console.info(describe.summary(numbers))
    if wanted.summary:
        write_bytes(wanted.summary, f"{json.dumps(numbers, indent=2)}\n".encode())


def _print_lines(wanted: Config) -> None:
    """What GStreamer would be told, for each source; without passwords.

    The fault of a bad one is said in its place; then the exit code is 1.
    """
    from edge.errors import SourceError
    from edge.gpu import nvidia
    from edge.sources.credentials import resolve
    from edge.sources.gst import detect_platform
    from edge.sources.pipelines import launch_line

    gpu, platform = wanted.backend != "onnxruntime" and nvidia.gpu() is not None, detect_platform()
    bad = False
    for camera in wanted.cameras:
        try:
            access = resolve(camera.uri, credentials=camera.credentials)
            print(launch_line(camera, access, platform=platform, gpu=gpu), flush=True)
        except SourceError as error:
            console.error(str(error))
            bad = True
    if bad:
        raise typer.Exit(1)
