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
from typing import TYPE_CHECKING, Any

import typer

from edge.cli import run_options as options
from edge.cli.app import app, check_engine, console, open_engine, refuse

if TYPE_CHECKING:
    from edge.outputs.factory import Outputs
    from edge.run.config import Config
    from edge.run.summary import Summary
    from edge.sources.feeds import Feed

__all__ = ["app"]

_NOT_KEYS = ("context", "config", "dry_run")  # parameters that are not configuration keys


@app.command()
def run(
    context: typer.Context,
    engine: options.Engine = None,
    source: options.Source = None,
    config: options.Config = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    check: options.Check = None,
    realtime: options.Realtime = None,
    loop: options.Loop = None,
    transport: options.Transport = None,
    credentials: options.Credentials = None,
    stall: options.Stall = None,
    reconnect: options.Reconnect = None,
    wait: options.Wait = None,
    dry_run: options.DryRun = False,
    frames: options.Frames = None,
    every: options.Every = None,
    max_fps: options.MaxFps = None,
    smooth: options.Smooth = None,
    format: options.Format = None,
    summary: options.Summary = None,
    preview: options.Preview = None,
    on: options.On = None,
    snapshots: options.Snapshots = None,
    keep: options.Keep = None,
    caption: options.Caption = None,
    record: options.Record = None,
    mqtt: options.Mqtt = None,
    web: options.Web = None,
    metrics: options.Metrics = None,
    audit: options.Audit = None,
    reference: options.Reference = None,
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
    if wanted.check:
        refuse(wanted.engine, check_engine(wanted.engine, wanted.backend, wanted.threads))
    with ExitStack() as stack:
        model = stack.enter_context(open_engine(wanted.engine, wanted.backend, wanted.threads))
        model.check_labels()

        def opened(camera: Camera) -> Feed:
            return feed(camera, model.device, reconnect=wanted.reconnect, info=console.info)

        model.warm()
        feeds = [opened(camera) for camera in wanted.cameras]
        outputs = open_outputs(
            wanted, model, status, stack, stop, console.info, console.warn, console.line
        )
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
