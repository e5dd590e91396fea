"""Recipes: the settings of a build, from the command line or a TOML file `engines/<name>.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from edge.builder.models.tasks import Request
from edge.builder.precision.placement import PLACES
from edge.engine.choices import MAX_BATCH, Method, PrecisionChoice
from edge.engine.heads import FEATURES, ZERO_SHOT, Pooling, Task
from edge.errors import ConfigError, OptionError
from edge.files import toml
from edge.files.settings import Key, nearest, read_table, read_value

__all__ = ["KEYS", "PRECISIONS", "Recipe", "load"]

PRECISIONS: tuple[str, ...] = get_args(PrecisionChoice)

_REQUIRED = ("checkpoint", "calibration")
# Short names of the tasks that appear in an engine's name; the default task does not.
_SHORT: dict[Task | None, str] = {FEATURES: "features", ZERO_SHOT: "zero-shot"}


def _choice(kind: Any, example: str) -> Key:
    return Key(kind, f"one of {', '.join(get_args(kind))}", f'"{example}"')


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise OptionError(
            f"{name!r} is not a valid engine name",
            "use letters, digits, '.', '-' and '_': --name my-engine",
        )


def _check_place(place: str) -> None:
    if place not in PLACES:
        raise OptionError(f"unknown place {place!r}", nearest(place, PLACES))


def _check_file(path: Any) -> None:
    if not path.is_file():
        raise OptionError(f"there is no file {path}", "check the path")


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Texts = tuple[str, ...]
_Percent = Annotated[float, msgspec.Meta(gt=1, le=100)]  # a share such as 0.99 is refused
_Points = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Batch = Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
_Pixels = Annotated[int, msgspec.Meta(ge=1)]

KEYS = {
    "checkpoint": Key(_Text, "a folder or a hub id", '"google/vit-base-patch16-224"'),
    "calibration": Key(Path, "a folder of images", '"photos"'),
    "heldout": Key(Path, "a folder of images", '"held-out-photos"'),
    "task": _choice(Task, "image-classification"),
    "pooling": _choice(Pooling, "cls"),
    "normalise": Key(bool, "true or false", "true"),
    "image_size": Key(_Pixels, "pixels of a side", "384"),
    "labels": Key(_Texts, "a list of labels", '["a cat", "a dog"]'),
    "templates": Key(_Texts, "a list of prompts", '["a photo of {}."]'),
    "precision": _choice(PrecisionChoice, "int8"),
    "method": _choice(Method, "auto"),
    "max_batch": Key(_Batch, f"a whole number from 1 to {MAX_BATCH}", "4"),
    "name": Key(_Text, "a name", '"my-engine"', _check_name),
    "min_agreement": Key(_Percent, "a percent above 1 (no gate: --no-gate, or gate = false)", "99"),
    "max_drop": Key(_Points, "points of top-1, 0 to 100", "0.5"),
    "gate": Key(bool, "true or false", "true"),
    "ranges": Key(Path, "a table of edge calibrate", '"ranges.json"', _check_file),
    "graph": Key(Path, "an ONNX graph with Q/DQ", '"trained.onnx"', _check_file),
    "also": Key(_Texts, f"a list of {', '.join(PLACES)}", '["head"]', _check_place),
    "witnesses": Key(bool, "true or false", "true"),
    "engines": Key(Path, "a folder", '"engines"'),
}


@dataclass(frozen=True)
class Recipe:
    """What to build: the options of `edge build` or the keys of `engines/*.toml`."""

    checkpoint: str
    calibration: Path  # a folder of images from the user's own domain
    heldout: Path | None = None  # held-out images; None: every fifth of the calibration set
    task: Task | None = None  # None: the default of the checkpoint's architecture
    pooling: Pooling | None = None  # of features; None: the model's own
    normalise: bool = False  # features to length 1
    image_size: int | None = None  # pixels per side; None: the size that it was trained with
    labels: tuple[str, ...] = ()  # of zero-shot classification
    templates: tuple[str, ...] = ()  # prompts with {} for the label; empty: `tasks.TEMPLATE`
    precision: str = "int8"
    method: str = "auto"
    max_batch: int = 1
    name: str | None = None
    min_agreement: float = 99.0  # the gate: percent of images that must agree with FP32
    max_drop: float | None = None  # the gate: points of top-1 that may be lost; needs classes
    gate: bool = True  # False: publish without a gate
    ranges: Path | None = None  # a range table of edge calibrate, instead of calibrating
    graph: Path | None = None  # a graph that has Q/DQ already, e.g. from training; used unchanged
    also: tuple[str, ...] = ()  # further places to quantise, of `placement.PLACES`
    witnesses: bool = True  # False: no held-out image is stored in the engine
    engines: Path = Path("engines")

    def __post_init__(self) -> None:
        """Raises `OptionError` for a setting that is out of range or contradicts another."""
        for name, key in KEYS.items():
            if (value := getattr(self, name)) not in (None, ()):
                read_value(name, value, key)
        if self.graph is not None and (self.ranges or self.also or self.precision != "int8"):
            raise OptionError(
                "a --graph is used unchanged", "leave out --precision, --ranges and --also"
            )
        if (self.ranges or self.also) and self.precision in ("fp32", "fp16"):
            raise OptionError(
                f"--ranges and --also need INT8 or FP8, not {self.precision}",
                "leave them out, or choose --precision int8",
            )

    @property
    def request(self) -> Request:
        """The settings that concern the checkpoint."""
        return Request(
            task=self.task,
            pooling=self.pooling,
            normalise=self.normalise,
            labels=self.labels,
            templates=self.templates,
            image_size=self.image_size,
        )

    @property
    def engine(self) -> str:
        """The engine's name, which is also its folder's name.

        By default it is made of the checkpoint, the image size and task where they are set, and the
        precision. Raises `OptionError` when it is not a valid name.
        """
        settings = (self.image_size, _SHORT.get(self.task), self.precision)
        parts = (Path(self.checkpoint).name, *filter(None, settings))
        name = self.name or "-".join(map(str, parts))
        _check_name(name)
        return name


def load(path: Path | None, options: dict[str, Any]) -> Recipe:
    """The recipe file at `path`, overridden by the command-line `options` that are not None.

    Paths in the file are relative to the current folder. Raises `ConfigError`, with the line, for a
    fault in the file, and `OptionError` for an invalid setting or a missing required one.
    """
    found = _read(path) if path else {}
    for key, value in options.items():
        if value is not None:
            found[key] = tuple(value) if isinstance(value, list) else value
    for key in _REQUIRED:
        if not found.get(key):
            raise OptionError(
                f"no {key} was given",
                "type edge build CHECKPOINT --calibration DIR, or give a --recipe that has both",
            )
    return Recipe(**found)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"there is no recipe {path}", "list recipes: ls engines/*.toml")
    document = toml.read(path)
    suggest = partial(nearest, known=KEYS)
    return read_table(document, (), document.data, KEYS, suggest)
