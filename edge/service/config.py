"""`load` and `merge`: the configuration of a run, from a TOML file and the command line.

    engine = "/opt/vit-edge/engines/cats"
    metrics = ":9100"

    [[camera]]
    source = "rtsp://10.0.0.5/stream1"
    name = "door"
    every = 2

The keys are the long names of the command's options, with `_` for `-`. A relative path is relative
to the current folder, as on the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.errors import ConfigError, OptionError, SourceError
from edge.files import toml
from edge.files.redaction import redact
from edge.outputs.record.rules import check_sources, read_rule
from edge.run.config import Config
from edge.service.keys import CAMERA, RUN, check_pairs, check_value, missing_partners, settings
from edge.sources.camera import Camera, with_unique_names
from edge.sources.pipelines import check_source
from edge.sources.uris import as_uri

__all__ = ["Diff", "diff", "load", "merge"]


@dataclass(frozen=True)
class Diff:
    """The difference between two configurations. A camera that changes is both removed and added.

    restart  changed keys that take effect only when a run starts
    """

    removed: tuple[Camera, ...]
    added: tuple[Camera, ...]
    unchanged: tuple[Camera, ...]
    restart: tuple[str, ...]


def load(path: Path, given: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Read a configuration file. Raises ConfigError with the line of the first error.

    given: the values of the command line, as for `merge`; they may complete those of the file.
    """
    document = toml.read(path)
    tables = document.data.get("camera", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise document.error(("camera",), "camera is not a list of tables", "write [[camera]]")
    options = {key: value for key, value in document.data.items() if key != "camera"}
    found = settings(document, (), options, RUN)
    cameras: dict[str, Camera] = {}
    for number, table in enumerate(tables):
        place: toml.KeyPath = ("camera", number)
        camera = _camera(document, place, table)
        if camera.name in cameras:
            raise document.error(
                (*place, "name" if "name" in table else "source"),
                f"there is already a camera {camera.name!r} above",
                'give this one another name: name = "..."',
            )
        cameras[camera.name] = camera
    on_command_line = _without_empty(given)
    for key, needed in missing_partners({*_without_empty(found), *on_command_line}).items():
        if key in found:
            raise document.error(
                (key,),
                f"{key} requires {needed}",
                f"write: {needed} = {RUN[needed].example}",
            )
    if "source" not in on_command_line:
        _check_rules(document, found.get("on", ()), cameras)
    return Config(**found, cameras=tuple(cameras.values()))


def merge(config: Config, given: Mapping[str, Any]) -> Config:
    """`config`, overridden by the values of the command line that are not None or empty.

    `given` has the keys of the file. Its `source` is a list of URIs that replace all cameras of the
    file; its other camera keys apply to every camera. Each camera of the result has a unique name.
    Raises ConfigError if there is no engine or no camera, and an EdgeError for an invalid value.
    """
    values = _without_empty(given)
    for key, value in values.items():
        check_value(key, value)
    if "source" in values:
        config = replace(config, cameras=tuple(Camera(uri) for uri in values.pop("source")))
    for_every_camera = {key: values.pop(key) for key in CAMERA if key in values}
    if "on" in values:
        values["on"] = tuple(values["on"])
    cameras = tuple(replace(camera, **for_every_camera) for camera in config.cameras)
    config = replace(config, **values, cameras=cameras)
    if config.engine is None:
        raise ConfigError(
            "no engine is given", 'name it on the command line, or write engine = "..." in the file'
        )
    if not config.cameras:
        raise ConfigError("no camera is given", "add --source URI, or a [[camera]] in the file")
    check_pairs(_without_empty(vars(config)))
    config = replace(config, cameras=tuple(with_unique_names(config.cameras)))
    check_sources(map(read_rule, config.on), [camera.name for camera in config.cameras])
    return config


def diff(old: Config, new: Config) -> Diff:
    """The changes from `old` to `new`."""
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


def _without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None or empty."""
    return {key: value for key, value in given.items() if value not in (None, [], ())}


def _check_rules(document: toml.Document, rules: Collection[str], cameras: Collection[str]) -> None:
    """Raises ConfigError for a rule whose source is not one of these cameras."""
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
