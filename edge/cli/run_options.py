"""The options of `edge run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import BACKENDS
from edge.engine import choices
from edge.sources import camera

__all__ = [
    "Audit",
    "Backend",
    "Caption",
    "Config",
    "Credentials",
    "DryRun",
    "Engine",
    "Every",
    "Format",
    "Frames",
    "Keep",
    "Loop",
    "MaxFps",
    "Metrics",
    "Mqtt",
    "On",
    "Preview",
    "Realtime",
    "Reconnect",
    "Record",
    "Reference",
    "Smooth",
    "Snapshots",
    "Source",
    "Stall",
    "Summary",
    "Threads",
    "Transport",
    "Wait",
    "Web",
]

_STREAMS, _FRAMES = "Sources", "Which frames"
_OUTPUTS, _WATCH = "Outputs", "Watching the run"

Engine = Annotated[Path | None, typer.Argument(metavar="ENGINE", help="folder made by edge build")]
Source = Annotated[
    list[str] | None,
    typer.Option(
        help="test://ball, file, /dev/video0, rtsp://, ... (docs/sources.md); repeat for more",
        rich_help_panel=_STREAMS,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with these options; SIGHUP reloads it (docs/service.md)"),
]
Backend = Annotated[
    choices.Backend | None,
    typer.Option(metavar="BACKEND", case_sensitive=False, help=BACKENDS),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of onnxruntime; all by default")]
Check = Annotated[
    bool | None,
    typer.Option("--check", help="compare the engine with FP32 before the first frame"),
]
Realtime = Annotated[
    bool | None,
    typer.Option("--realtime", help="read videos at their own speed", rich_help_panel=_STREAMS),
]
Loop = Annotated[
    bool | None,
    typer.Option("--loop", help="start videos over at their end", rich_help_panel=_STREAMS),
]
Transport = Annotated[
    camera.Transport | None,
    typer.Option(
        case_sensitive=False,
        help="for RTSP: tcp, or udp, which is faster and may lose packets  [default: tcp]",
        rich_help_panel=_STREAMS,
    ),
]
Credentials = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="netrc file with users and passwords by host",
        rich_help_panel=_STREAMS,
    ),
]
Stall = Annotated[
    float | None,
    typer.Option(
        help="seconds without a frame before a camera is reconnected  [default: 10]",
        rich_help_panel=_STREAMS,
    ),
]
Reconnect = Annotated[
    bool | None,
    typer.Option(
        help="reconnect cameras that fail or end  [default: reconnect]",
        rich_help_panel=_STREAMS,
    ),
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait",
        help="keep trying even if no camera has connected yet",
        rich_help_panel=_STREAMS,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="print the gst-launch-1.0 command of each source, and exit"),
]
Frames = Annotated[
    int | None,
    typer.Option(
        help="stop after this many labelled frames, of all sources together",
        rich_help_panel=_FRAMES,
    ),
]
Every = Annotated[
    int | None, typer.Option(help="label every N-th frame only", rich_help_panel=_FRAMES)
]
MaxFps = Annotated[
    float | None,
    typer.Option(
        help="label at most this many frames per second, per source",
        rich_help_panel=_FRAMES,
    ),
]
Smooth = Annotated[
    str | None,
    typer.Option(
        metavar="TIME|majority:K",
        help="smooth labels over time: 0.5s, or the majority of K frames",
        rich_help_panel=_FRAMES,
    ),
]
Format = Annotated[
    choices.Format | None,
    typer.Option(
        case_sensitive=False,
        help="of the results on stdout; text: for people  [default: json]",
        rich_help_panel=_OUTPUTS,
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option(help="JSON file for the measurements", rich_help_panel=_OUTPUTS),
]
Preview = Annotated[
    Path | None, typer.Option(help="PNG file for a labelled frame", rich_help_panel=_OUTPUTS)
]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE",
        help='when to take a snapshot: "label=dog and confidence>0.8 for 2s"',
        rich_help_panel=_OUTPUTS,
    ),
]
Snapshots = Annotated[
    Path | None, typer.Option(help="folder for snapshots", rich_help_panel=_OUTPUTS)
]
Keep = Annotated[
    int | None,
    typer.Option(help="keep only this many newest snapshots", rich_help_panel=_OUTPUTS),
]
Caption = Annotated[
    bool | None,
    typer.Option(
        help="draw label and time on snapshots  [default: caption]",
        rich_help_panel=_OUTPUTS,
    ),
]
Record = Annotated[
    str | None,
    typer.Option(
        metavar="OUT",
        envvar="EDGE_RECORD",
        help="labelled video: a .mkv or .mp4 file, a folder/, or rtsp://:8554/NAME",
        rich_help_panel=_OUTPUTS,
    ),
]
Mqtt = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="EDGE_MQTT",
        help="publish to a broker: mqtt://host/prefix (docs/mqtt.md)",
        rich_help_panel=_OUTPUTS,
    ),
]
Web = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST]:PORT",
        help="live page; on this machine only, unless HOST is given (docs/web.md)",
        rich_help_panel=_WATCH,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST]:PORT",
        help="Prometheus metrics; on this machine only, unless HOST is given",
        rich_help_panel=_WATCH,
    ),
]
Audit = Annotated[
    str | None,
    typer.Option(
        metavar="1/N",
        help="check one frame in N against --reference (docs/audit.md)",
        rich_help_panel=_WATCH,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="ENGINE", help="FP32 engine of the same checkpoint", rich_help_panel=_WATCH
    ),
]
