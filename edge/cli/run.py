"""`edge run`: starts a run from the command line or a configuration file."""

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
_NOT_KEYS = ("context", "config", "dry_run")  # parameters that are not configuration keys


@app.command()
def run(
    context: typer.Context,
    engine: Annotated[
        Path | None, typer.Argument(metavar="ENGINE", help="folder made by edge build")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="test://ball, file, /dev/video0, rtsp://, ... (docs/sources.md); repeat for more",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with these options; SIGHUP reloads it (docs/service.md)"),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="what executes the engine  [default: auto]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of onnxruntime; all by default")
    ] = None,
    realtime: Annotated[
        bool | None,
        typer.Option("--realtime", help="read videos at their own speed", rich_help_panel=_STREAMS),
    ] = None,
    loop: Annotated[
        bool | None,
        typer.Option("--loop", help="start videos over at their end", rich_help_panel=_STREAMS),
    ] = None,
    transport: Annotated[
        Transport | None,
        typer.Option(
            help="for RTSP: tcp, or udp, which is faster and may lose packets  [default: tcp]",
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
            help="seconds without a frame before a camera is reconnected  [default: 10]",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    reconnect: Annotated[
        bool | None,
        typer.Option(
            help="reconnect cameras that fail or end  [default: reconnect]",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait",
            help="keep trying even if no camera has connected yet",
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print the gst-launch-1.0 command of each source, and exit"),
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="stop after this many frames", rich_help_panel=_FRAMES)
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="label every N-th frame only", rich_help_panel=_FRAMES)
    ] = None,
    max_fps: Annotated[
        float | None,
        typer.Option(
            help="label at most this many frames per second, per source",
            rich_help_panel=_FRAMES,
        ),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|majority:K",
            help="smooth labels over time: 0.5s, or the majority of K frames",
            rich_help_panel=_FRAMES,
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="JSON file for the measurements", rich_help_panel=_OUTPUTS),
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
        typer.Option(help="keep only this many newest snapshots", rich_help_panel=_OUTPUTS),
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
            help="live page; on this machine only, unless HOST is given (docs/web.md)",
            rich_help_panel=_WATCH,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Prometheus metrics; on this machine only, unless HOST is given",
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
    given = {name: value for name, value in locals().items() if name not in _NOT_KEYS}
    if config is None and not (engine and source):
        raise typer.BadParameter("give an ENGINE and a --source, or a --config with both")
    from edge.files.storage import check_target
    from edge.outputs.preview import check_preview
    from edge.run.config import Config
    from edge.service.config import load, merge
    from edge.sources.camera import unused_options

    _warn_of_passwords(context)
    wanted = merge(load(config, given) if config else Config(), given)
    for key in unused_options(wanted.cameras):
        console.warn(f"{key} has no effect on these sources (docs/sources.md)")
    if wanted.summary:
        check_target(wanted.summary)
    if wanted.preview:
        check_preview(wanted.preview)
    if dry_run:
        _print_lines(wanted)
    else:
        _run(wanted, config, given)


def _warn_of_passwords(context: typer.Context) -> None:
    """Warn about options with a password that was typed on the command line."""
    from edge.files.redaction import contains_password

    shown = []
    for name in ("source", "mqtt", "record"):
        given, origin = context.params[name], context.get_parameter_source(name)
        texts = given if isinstance(given, list) else [given or ""]
        typed = origin is not None and origin.name == "COMMANDLINE"
        if typed and any(map(contains_password, texts)):
            shown.append(f"--{name}")
    if shown:
        console.warn(
            f"other users can see (by ps) the password in {' and '.join(shown)}; use "
            "${NAME} or a netrc file for a source, EDGE_MQTT, EDGE_RECORD, or --config"
        )


def _run(wanted: Config, path: Path | None, given: dict[str, Any]) -> None:
    """Run a configuration. path, given: the file and the command line, for reloads."""
    from edge.outputs.factory import open_outputs
    from edge.run import loop
    from edge.run.status import Status
    from edge.service.reload import Reload
    from edge.service.systemd import StatusLine, Systemd, Watchdog
    from edge.sources.camera import Camera
    from edge.sources.gst import gstreamer
    from edge.sources.opening import check_camera, feed

    console.never_wait()
    stop, hangup = threading.Event(), threading.Event()
    if path is not None:
        signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    systemd = Systemd.of(os.environ, console.warn)
    status, control = Status(), loop.Control()
    watchdog, line = Watchdog(systemd, status), StatusLine(systemd, status)
    assert wanted.engine is not None  # checked by merge()
    gstreamer()  # limits the number of heaps: too late once an engine has started threads
    for camera in wanted.cameras:  # before the engine, which may take long to open
        check_camera(camera)
    with ExitStack() as stack:
        model = stack.enter_context(open_engine(wanted.engine, wanted.backend, wanted.threads))
        model.check_labels()

        def opened(camera: Camera) -> Feed:
            return feed(camera, model.device, reconnect=wanted.reconnect, info=console.info)

        model.warm()
        feeds = [opened(camera) for camera in wanted.cameras]
        outputs = open_outputs(wanted, model, status, stack, stop, console.info, console.warn)
        # Until now signals raised KeyboardInterrupt. SIGHUP of a closed terminal ends the run, too,
        # except under `nohup`.
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
    if stop.is_set() and not measured.frames:  # no camera had connected yet
        raise KeyboardInterrupt


def _end(measured: Summary, outputs: Outputs, wanted: Config) -> None:
    """Report the measurements, however the run ended; without any frame nothing is printed."""
    from edge.engine import describe
    from edge.files.storage import write_bytes

    for number in (signal.SIGINT, signal.SIGTERM):  # the next one ends the process at once
        signal.signal(number, signal.default_int_handler)
    numbers = {**asdict(measured), **outputs.numbers()}
    if measured.frames:
        console.info(describe.summary(numbers))
    if wanted.summary:
        write_bytes(wanted.summary, f"{json.dumps(numbers, indent=2)}\n".encode())


def _print_lines(wanted: Config) -> None:
    """Print the gst-launch-1.0 command of each source, without passwords.

    For an invalid source its error is printed instead; then the exit code is 1.
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
