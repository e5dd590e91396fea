"""What a run is asked for: `edge run --config cameras.toml`, and what the command line says on top.

    engine = "/opt/vit-edge/engines/cats"
    metrics = ":9100"

    [[camera]]
    source = "rtsp://10.0.0.5/stream1"
    name = "door"
    every = 2

The file's keys are the long names of the command's options, with `_` for `-`. A relative path is
relative to the current folder, as on the command line.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from edge.errors import ConfigError, EdgeError, SourceError
from edge.options import Backend
from edge.run.parity.audit import parse_every
from edge.run.record.recording import check_record
from edge.run.record.rules import read_rule
from edge.run.record.smoothing import smoothing
from edge.run.service import toml
from edge.run.sources.cameras import Camera, Transport, named
from edge.run.sources.pipelines import check_source
from edge.run.sources.uris import as_uri, redact, redact_address
from edge.run.telemetry.broker import Broker
from edge.run.telemetry.metrics import listen_address
from edge.run.web.access import parse_address

__all__ = ["Config", "Diff", "diff", "load", "merge"]


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


@dataclass(frozen=True)
class Diff:
    """What a reload changes. A camera that is asked for otherwise is both removed and added.

    restart  keys that changed and are read only when a run starts
    """

    removed: tuple[Camera, ...]
    added: tuple[Camera, ...]
    unchanged: tuple[Camera, ...]
    restart: tuple[str, ...]


@dataclass(frozen=True)
class _Key:
    """One key of the file: what msgspec makes of its value, what a person writes, an example.

    check  raises an EdgeError or a ValueError for a text, or one of a list, that means nothing
    """

    kind: Any
    wanted: str
    example: str
    check: Callable[[str], object] = str


_Count = Annotated[int, msgspec.Meta(ge=1)]
_Span = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # nor nan, nor inf
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f]+\Z")]

_RUN = {
    "engine": _Key(Path, "the folder of an engine", '"/opt/vit-edge/engines/cats"'),
    "backend": _Key(Backend, f"one of {', '.join(get_args(Backend))}", '"auto"'),
    "threads": _Key(_Count, "a whole number from 1", "2"),
    "frames": _Key(_Count, "a whole number from 1", "1000"),
    "reconnect": _Key(bool, "true or false", "true"),
    "wait": _Key(bool, "true or false", "true"),
    "summary": _Key(Path, "a file", '"summary.json"'),
    "preview": _Key(Path, "a file", '"frame.png"'),
    "web": _Key(_Text, "an address", '":8080"', parse_address),
    "metrics": _Key(_Text, "an address", '":9100"', listen_address),
    "mqtt": _Key(_Text, "the URL of a broker", '"mqtt://localhost:1883/cabinet"', Broker.from_url),
    "smooth": _Key(_Text, "a time, or a majority of frames", '"0.5s"', smoothing),
    "on": _Key(
        tuple[_Text, ...],
        "a list of rules",
        '["label=dog and confidence>0.8 for 2s"]',
        read_rule,
    ),
    "snapshots": _Key(Path, "a folder", '"/var/lib/vit-edge/snapshots"'),
    "keep": _Key(_Count, "a whole number from 1", "1000"),
    "record": _Key(
        _Text, "a file, a folder or rtsp://", '"/var/lib/vit-edge/out.mkv"', check_record
    ),
    "audit": _Key(_Text, "one frame of how many", '"1/500"', parse_every),
    "reference": _Key(Path, "the folder of an FP32 engine", '"/opt/vit-edge/engines/cats-fp32"'),
}
_CAMERA = {
    "source": _Key(_Text, "a source", '"rtsp://10.0.0.5/stream1"'),
    "name": _Key(_Name, "a name on one line", '"door"'),
    "every": _Key(_Count, "a whole number from 1", "2"),
    "max_fps": _Key(_Span, "a number above 0", "10"),
    "stall": _Key(_Span, "a number of seconds above 0", "10"),
    "realtime": _Key(bool, "true or false", "true"),
    "loop": _Key(bool, "true or false", "true"),
    "transport": _Key(Transport, f"one of {', '.join(get_args(Transport))}", '"tcp"'),
    "credentials": _Key(_Text, "a netrc file", '"/etc/vit-edge/credentials"'),
}


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError, with its line, for the first fault in it."""
    document = toml.read(path)
    tables = document.data.get("camera", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise document.error(("camera",), "camera is no list of tables", "write [[camera]]")
    options = {key: value for key, value in document.data.items() if key != "camera"}
    settings = _settings(document, (), options, _RUN)
    cameras: dict[str, Camera] = {}
    for number, table in enumerate(tables):
        place: toml.Place = ("camera", number)
        camera = _camera(document, place, table)
        if camera.name in cameras:
            raise document.error(
                (*place, "name" if "name" in table else "source"),
                f"there is a camera {camera.name!r} above this one",
                'give this one a name of its own: name = "..."',
            )
        cameras[camera.name] = camera
    return Config(**settings, cameras=tuple(cameras.values()))


def merge(config: Config, given: Mapping[str, Any]) -> Config:
    """`config`, but for what the command line gives: whatever is not None or empty in `given`.

    Each camera has a name of its own then.

    Its keys are those of the file. `source` is a list of URIs that stand in for all cameras of the
    file, and the other keys of a camera hold for every one.
    Raises ConfigError when there is no engine, or no camera.
    """
    said = {key: value for key, value in given.items() if value is not None and value != []}
    if "source" in said:
        config = replace(config, cameras=tuple(Camera(uri) for uri in said.pop("source")))
    of_each = {key: said.pop(key) for key in _CAMERA if key in said}
    if "on" in said:
        said["on"] = tuple(said["on"])
    cameras = tuple(replace(camera, **of_each) for camera in config.cameras)
    config = replace(config, **said, cameras=cameras)
    if config.engine is None:
        raise ConfigError("no engine was named", 'type it, or write engine = "..." into the file')
    if not config.cameras:
        raise ConfigError("no camera was named", "type --source URI, or write a [[camera]]")
    return replace(config, cameras=tuple(named(config.cameras)))


def diff(old: Config, new: Config) -> Diff:
    """What it takes to go from `old` to `new`."""
    return Diff(
        removed=tuple(camera for camera in old.cameras if camera not in new.cameras),
        added=tuple(camera for camera in new.cameras if camera not in old.cameras),
        unchanged=tuple(camera for camera in new.cameras if camera in old.cameras),
        restart=tuple(
            field.name
            for field in fields(Config)
            if field.name != "cameras" and getattr(old, field.name) != getattr(new, field.name)
        ),
    )


def _camera(document: toml.Document, place: toml.Place, table: dict[str, Any]) -> Camera:
    settings = _settings(document, place, table, _CAMERA)
    if "source" not in settings:
        raise document.error(
            place, "this camera has no source", f"write: source = {_CAMERA['source'].example}"
        )
    try:
        uri = as_uri(settings.pop("source"))
        check_source(uri)
    except SourceError as error:
        raise document.error((*place, "source"), error.what, error.mend) from error
    return Camera(uri, **{"name": redact(uri), **settings})


def _settings(
    document: toml.Document, place: toml.Place, table: dict[str, Any], keys: dict[str, _Key]
) -> dict[str, Any]:
    """The values of a table, each as its key wants it."""
    settings = {}
    for name, value in table.items():
        here = (*place, name)
        if name not in keys:
            raise document.error(here, f"there is no key {name!r} here", _advice(name, keys))
        try:
            settings[name] = msgspec.convert(value, keys[name].kind, dec_hook=_path)
        except msgspec.ValidationError as error:
            # A password may be in it.
            shown = redact_address(json.dumps(value, default=str, ensure_ascii=False))
            element = re.search(r"\$\[(\d+)\]`$", str(error))
            raise document.error(
                (*here, int(element[1])) if element else here,
                f"{name} cannot be {shown}",
                f"write {keys[name].wanted}, as in: {name} = {keys[name].example}",
            ) from error
        _check(document, here, keys[name], settings[name])
    return settings


def _check(document: toml.Document, place: toml.Place, key: _Key, value: Any) -> None:
    """Raise what the one that will read a text, or the texts of a list, finds wrong with it."""
    texts = [(place, value)]
    if isinstance(value, tuple):
        texts = [((*place, number), text) for number, text in enumerate(value)]
    for here, text in texts:
        try:
            key.check(text)
        except (EdgeError, ValueError) as error:
            what = error.what if isinstance(error, EdgeError) else str(error)
            mend = error.mend if isinstance(error, EdgeError) else f"write {key.example}"
            raise document.error(here, f"{place[-1]}: {what}", mend) from error


def _advice(name: str, keys: dict[str, _Key]) -> str:
    """What to write in place of a key that is not there."""
    if name in _RUN:  # TOML gives a [[camera]] all keys that follow it
        return f"move {name} above the first [[camera]]"
    if name in _CAMERA:
        return f"move {name} into a [[camera]]"
    known = keys if keys is _CAMERA else {**keys, "camera": None}
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]}?"
    return f"use one of: {', '.join(known)}"


def _path(kind: type, value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("no path")
    return Path(value)
