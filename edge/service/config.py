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

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.errors import ConfigError, OptionError, SourceError
from edge.files import toml
from edge.outputs.record.rules import check_sources, read_rule
from edge.run.config import Config
from edge.service.keys import CAMERA, RUN, check_pairs, check_value, missing_partners, settings
from edge.sources.camera import Camera, with_unique_names
from edge.sources.pipelines import check_source
from edge.sources.uris import as_uri, redact

__all__ = ["Diff", "diff", "load", "merge"]


@dataclass(frozen=True)
class Diff:
    """What a reload changes. A camera that is asked for otherwise is both removed and added.

    restart  keys that changed and are read only when a run starts
    """

    removed: tuple[Camera, ...]
    added: tuple[Camera, ...]
    unchanged: tuple[Camera, ...]
    restart: tuple[str, ...]


def load(path: Path, given: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Read a configuration file. Raises ConfigError, with its line, for the first fault in it.

    given: what the command line says on top, as for `merge`: it may complete what the file says.
    """
    document = toml.read(path)
    tables = document.data.get("camera", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise document.error(("camera",), "camera is no list of tables", "write [[camera]]")
    options = {key: value for key, value in document.data.items() if key != "camera"}
    found = settings(document, (), options, RUN)
    cameras: dict[str, Camera] = {}
    for number, table in enumerate(tables):
        place: toml.KeyPath = ("camera", number)
        camera = _camera(document, place, table)
        if camera.name in cameras:
            raise document.error(
                (*place, "name" if "name" in table else "source"),
                f"there is a camera {camera.name!r} above this one",
                'give this one a name of its own: name = "..."',
            )
        cameras[camera.name] = camera
    said = _said(given)
    for key, needed in missing_partners({*_said(found), *said}).items():
        if key in found:
            raise document.error(
                (key,),
                f"{key} means nothing without {needed}",
                f"write: {needed} = {RUN[needed].example}",
            )
    if "source" not in said:
        _check_rules(document, found.get("on", ()), cameras)
    return Config(**found, cameras=tuple(cameras.values()))


def merge(config: Config, given: Mapping[str, Any]) -> Config:
    """`config`, but for what the command line gives: whatever is not None or empty in `given`.

    Each camera has a name of its own then.

    Its keys are those of the file. `source` is a list of URIs that stand in for all cameras of the
    file, and the other keys of a camera hold for every one.
    Raises ConfigError when there is no engine, or no camera, and an EdgeError for what cannot be.
    """
    said = _said(given)
    for key, value in said.items():
        check_value(key, value)
    if "source" in said:
        config = replace(config, cameras=tuple(Camera(uri) for uri in said.pop("source")))
    of_each = {key: said.pop(key) for key in CAMERA if key in said}
    if "on" in said:
        said["on"] = tuple(said["on"])
    cameras = tuple(replace(camera, **of_each) for camera in config.cameras)
    config = replace(config, **said, cameras=cameras)
    if config.engine is None:
        raise ConfigError("no engine was named", 'type it, or write engine = "..." into the file')
    if not config.cameras:
        raise ConfigError("no camera was named", "type --source URI, or write a [[camera]]")
    check_pairs(_said(vars(config)))
    config = replace(config, cameras=tuple(with_unique_names(config.cameras)))
    check_sources(map(read_rule, config.on), [camera.name for camera in config.cameras])
    return config


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


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: whatever is not None or empty."""
    return {key: value for key, value in given.items() if value not in (None, [], ())}


def _check_rules(document: toml.Document, rules: Collection[str], cameras: Collection[str]) -> None:
    """Raises ConfigError for a rule that names none of these cameras."""
    for number, text in enumerate(rules):
        try:
            check_sources([read_rule(text)], list(cameras))
        except OptionError as error:
            raise document.error(("on", number), f"on: {error.problem}", error.hint) from error


def _camera(document: toml.Document, place: toml.KeyPath, table: dict[str, Any]) -> Camera:
    found = settings(document, place, table, CAMERA)
    if "source" not in found:
        raise document.error(
            place, "this camera has no source", f"write: source = {CAMERA['source'].example}"
        )
    try:
        uri = as_uri(found.pop("source"))
        check_source(uri)
    except SourceError as error:
        raise document.error((*place, "source"), error.problem, error.hint) from error
    return Camera(uri, **{"name": redact(uri), **found})
