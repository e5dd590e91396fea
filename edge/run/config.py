"""`Config`: the settings of one run, from the command line or a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.engine.choices import Backend
from edge.sources.camera import Camera

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """One run, as asked for. None and () stand for what was not: the command's default holds.

    engine     its folder
    backend    what executes it
    threads    of the CPU, for onnxruntime
    frames     end after so many
    reconnect  open a camera again that ended or failed; else it ends the run
    wait       go on trying when no camera has ever come
    summary    JSON file for what was measured
    preview    PNG file for a labelled frame
    web        address of the live page
    metrics    address for Prometheus
    mqtt       URL of a broker
    smooth     over time, such as 0.5s or majority:15
    on         rules; when one comes true, a picture is written to `snapshots`
    snapshots  folder for them
    keep       only the newest so many stay there
    record     annotated video: a file, or rtsp://
    audit      compare one frame of so many with `reference`, such as 1/500
    reference  folder of the FP32 engine
    cameras    each with a name of its own
    """

    engine: Path | None = None
    backend: Backend = "auto"
    threads: int | None = None
    frames: int | None = None
    reconnect: bool = True
    wait: bool = False
    summary: Path | None = None
    preview: Path | None = None
    web: str | None = None
    metrics: str | None = None
    mqtt: str | None = None
    smooth: str | None = None
    on: tuple[str, ...] = ()
    snapshots: Path | None = None
    keep: int | None = None
    record: str | None = None
    audit: str | None = None
    reference: Path | None = None
    cameras: tuple[Camera, ...] = ()
