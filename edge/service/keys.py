"""`RUN` and `CAMERA`: the keys of a configuration file, with their types, checks and examples.

The keys of a configuration file are the long names of the command's options, with `_` for `-`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from edge.engine.choices import Backend, Format
from edge.errors import EdgeError, OptionError
from edge.files import toml
from edge.files.settings import Key, nearest, read_table
from edge.outputs.audit.audit import parse_every
from edge.outputs.record.recording import check_record
from edge.outputs.record.rules import read_rule
from edge.outputs.record.smoothing import smoothing
from edge.outputs.telemetry.broker import Broker
from edge.outputs.web.access import parse_address
from edge.sources.camera import Transport

__all__ = ["CAMERA", "RUN", "check_pairs", "check_value", "missing_partners", "settings"]


_Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
_Threads = Annotated[int, msgspec.Meta(ge=1, le=1024)]
_Span = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # nor nan, nor inf
# The stall timeout has a resolution of 0.1 s; less would be an ordinary gap at 100 frames a second.
_Silence = Annotated[float, msgspec.Meta(ge=0.1, le=1e9)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f]+\Z")]

RUN = {
    "engine": Key(Path, "the folder of an engine", '"/opt/vit-edge/engines/cats"'),
    "backend": Key(Backend, f"one of {', '.join(get_args(Backend))}", '"auto"'),
    "threads": Key(_Threads, "a whole number from 1 to 1024", "2"),
    "check": Key(bool, "true or false", "true"),
    "frames": Key(_Count, "a whole number from 1", "1000"),
    "reconnect": Key(bool, "true or false", "true"),
    "wait": Key(bool, "true or false", "true"),
    "format": Key(Format, "json or text", '"text"'),
    "summary": Key(Path, "a file", '"summary.json"'),
    "preview": Key(Path, "a file", '"frame.png"'),
    "web": Key(_Text, "an address", '":8080"', parse_address),
    "metrics": Key(_Text, "an address", '":9100"', parse_address),
    "mqtt": Key(
        _Text, "the URL of a broker", '"mqtt://localhost:1883/cabinet"', Broker.from_url, uris=True
    ),
    "smooth": Key(_Text, "a time, or a majority of frames", '"0.5s"', smoothing),
    "on": Key(
        tuple[_Text, ...],
        "a list of rules",
        '["label=dog and confidence>0.8 for 2s"]',
        read_rule,
        uris=True,
    ),
    "snapshots": Key(Path, "a folder", '"/var/lib/vit-edge/snapshots"'),
    "keep": Key(_Count, "a whole number from 1", "1000"),
    "caption": Key(bool, "true or false", "false"),
    "record": Key(
        _Text, "a file, a folder or rtsp://", '"/var/lib/vit-edge/out.mkv"', check_record, uris=True
    ),
    "audit": Key(_Text, "one frame of how many", '"1/500"', parse_every),
    "reference": Key(Path, "the folder of an FP32 engine", '"/opt/vit-edge/engines/cats-fp32"'),
}
CAMERA = {
    "source": Key(_Text, "a source", '"rtsp://10.0.0.5/stream1"', uris=True),
    "name": Key(_Name, "a name on one line", '"door"'),
    "every": Key(_Count, "a whole number from 1", "2"),
    "max_fps": Key(_Span, "a number above 0", "10"),
    "stall": Key(_Silence, "a number of seconds from 0.1", "10"),
    "realtime": Key(bool, "true or false", "true"),
    "loop": Key(bool, "true or false", "true"),
    "transport": Key(Transport, f"one of {', '.join(get_args(Transport))}", '"tcp"'),
    "credentials": Key(_Text, "a netrc file", '"/etc/vit-edge/credentials"'),
}
# Keys that require another one, and how both are typed.
_SNAPSHOTS = '--on "label=dog and confidence>0.8 for 2s" --snapshots DIR'
_AUDIT = "--audit 1/500 --reference engines/NAME-fp32"
_NEEDS = {
    "on": ("snapshots", _SNAPSHOTS),
    "snapshots": ("on", _SNAPSHOTS),
    "keep": ("snapshots", _SNAPSHOTS),
    "audit": ("reference", _AUDIT),
    "reference": ("audit", _AUDIT),
}


def missing_partners(given: Collection[str]) -> dict[str, str]:
    """The given keys that require another key which is not given: key -> required key."""
    needs = {key: needed for key, (needed, _) in _NEEDS.items() if key in given}
    return {key: needed for key, needed in needs.items() if needed not in given}


def check_pairs(given: Collection[str]) -> None:
    """Raises OptionError if an option on the command line lacks the one that it requires."""
    for key, needed in missing_partners(given).items():
        raise OptionError(f"--{key} requires --{needed}", f"write {_NEEDS[key][1]}")


def check_value(name: str, value: Any) -> None:
    """Raises an EdgeError if the value of an option on the command line is invalid."""
    key, option = {**RUN, **CAMERA}[name], f"--{name.replace('_', '-')}"
    try:
        if isinstance(value, int | float):
            msgspec.convert(value, key.kind)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str | Path):
                key.check_value(text)
    except msgspec.ValidationError:
        raise OptionError(
            f"{option} cannot be {value}", f"write {key.wanted}, as in: {option} {key.example}"
        ) from None
    except EdgeError:
        raise
    except ValueError as error:
        raise OptionError(f"{option} {error}", f"write {option} {key.example}") from error


def settings(
    document: toml.Document, place: toml.KeyPath, table: dict[str, Any], keys: dict[str, Key]
) -> dict[str, Any]:
    """The values of a table, converted and checked; errors redact passwords."""
    advice = partial(_advice, keys=keys)
    return read_table(document, place, table, keys, advice)


def _advice(name: str, keys: dict[str, Key]) -> str:
    """The hint for an unknown key."""
    if name in RUN:  # in TOML a [[camera]] owns all keys that follow it
        return f"move {name} above the first [[camera]]"
    if name in CAMERA:
        return f"move {name} into a [[camera]]"
    known = keys if keys is CAMERA else {**keys, "camera": None}
    return nearest(name, known)
