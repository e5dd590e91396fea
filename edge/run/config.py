"""`Config`: the settings of one run, from the command line or a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.engine.choices import Backend, Format
from edge.sources.camera import Camera

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """The settings of one run. None or (): not given; the command's default applies.

    engine     folder of the engine
    backend    what executes the engine
    threads    CPU threads of onnxruntime
    check      judge the engine on its witnesses before the first frame
    frames     stop after N frames
    reconnect  open a camera that ended or failed again; False: its end ends the run
    wait       keep trying even if no camera has ever connected
    format     of the results on stdout: JSON lines, or text for people
    summary    JSON file for the measurements of the run
    preview    PNG file for a labelled frame
    web        address of the live page
    metrics    address for Prometheus
    mqtt       URL of a broker
    smooth     smoothing over time, such as 0.5s or majority:15
    on         rules; when one becomes true, a snapshot is written to `snapshots`
    snapshots  folder of the snapshots
    keep       keep the N newest snapshots
    caption    draw label and time on snapshots
    record     annotated video: a file, or rtsp://
    audit      compare one frame in N with `reference`, such as 1/500
    reference  folder of the FP32 engine
    cameras    the sources, each with a unique name
    """

    engine: Path | None = None
    backend: Backend = "auto"
    threads: int | None = None
    check: bool = False
    frames: int | None = None
    reconnect: bool = True
    wait: bool = False
    format: Format = "json"
    summary: Path | None = None
    preview: Path | None = None
    web: str | None = None
    metrics: str | None = None
    mqtt: str | None = None
    smooth: str | None = None
    on: tuple[str, ...] = ()
    snapshots: Path | None = None
    keep: int | None = None
    caption: bool = True
    record: str | None = None
    audit: str | None = None
    reference: Path | None = None
    cameras: tuple[Camera, ...] = ()
