"""Recipes: the settings of a build, from the command line or a TOML file `engines/<name>.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from edge.builder.export import MAX_BATCH
from edge.builder.models.tasks import Request
from edge.builder.precision.placement import PLACES
from edge.engine.choices import Method, PrecisionChoice
from edge.engine.heads import FEATURES, ZERO_SHOT, Pooling, Task
from edge.errors import ConfigError, OptionError
from edge.files import toml
from edge.files.settings import Key, nearest, read_table, read_value

__all__ = ["KEYS", "PRECISIONS", "Recipe", "load"]

PRECISIONS: tuple[str, ...] = get_args(PrecisionChoice)

_REQUIRED = ("checkpoint", "calibration")
# Tasks that are not the usual one, in the name of an engine.
_SHORT: dict[Task | None, str] = {FEATURES: "features", ZERO_SHOT: "zero-shot"}


def _choice(kind: Any, example: str) -> Key:
    return Key(kind, f"one of {', '.join(get_args(kind))}", f'"{example}"')


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise OptionError(
            f"{name!r} cannot be the name of an engine",
            "use letters, digits, '.', '-' and '_': --name my-engine",
        )


def _check_place(place: str) -> None:
    if place not in PLACES:
        raise OptionError(f"there is no place {place!r}", nearest(place, PLACES))


def _check_file(path: Any) -> None:
    if not path.is_file():
        raise OptionError(f"there is no file {path}", "check the path")


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Texts = tuple[str, ...]
_Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Batch = Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
_Pixels = Annotated[int, msgspec.Meta(ge=1)]

KEYS = {
    "checkpoint": Key(_Text, "a folder or a hub id", '"google/vit-base-patch16-224"'),
    "calibration": Key(Path, "a folder of images", '"photos"'),
    "heldout": Key(Path, "a folder of images", '"photos-that-judge"'),
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
    "min_agreement": Key(_Percent, "a percent, 0 to 100", "99"),
    "max_drop": Key(_Percent, "points of top-1, 0 to 100", "0.5"),
    "gate": Key(bool, "true or false", "true"),
    "ranges": Key(Path, "a table of edge calibrate", '"ranges.json"', _check_file),
    "graph": Key(Path, "an ONNX graph with Q/DQ", '"trained.onnx"', _check_file),
    "also": Key(_Texts, f"a list of {', '.join(PLACES)}", '["head"]', _check_place),
    "engines": Key(Path, "a folder", '"engines"'),
}


@dataclass(frozen=True)
class Recipe:
    """What to build: the arguments of `edge build`, or of a `engines/*.toml`."""

    checkpoint: str
    calibration: Path  # a folder of images from the user's own domain
    heldout: Path | None = None  # images that judge; None: every fifth of the calibration set
    task: Task | None = None  # None: the usual one of the checkpoint's architecture
    pooling: Pooling | None = None  # of features; None: the model's own
    normalise: bool = False  # features to length 1
    image_size: int | None = None  # pixels of a side; None: those that it was trained with
    labels: tuple[str, ...] = ()  # of zero-shot
    templates: tuple[str, ...] = ()  # of prompts that they are put into; none: the usual one
    precision: str = "int8"
    method: str = "auto"
    max_batch: int = 1
    name: str | None = None
    min_agreement: float = 99.0  # the gate: percent of images that must agree with FP32
    max_drop: float | None = None  # and points of top-1 that may be lost, where classes are known
    gate: bool = True
    ranges: Path | None = None  # a table of edge calibrate, instead of calibrating
    graph: Path | None = None  # one with Q/DQ of its own, such as from training, taken as it is
    also: tuple[str, ...] = ()  # more places to quantise, of `placement.PLACES`
    engines: Path = Path("engines")

    def __post_init__(self) -> None:
        """Raises `OptionError` for a setting that cannot be."""
        for name, key in KEYS.items():
            if (value := getattr(self, name)) not in (None, ()):
                read_value(name, value, key)
        if self.graph is not None and (self.ranges or self.also or self.precision != "int8"):
            raise OptionError(
                "a --graph is taken as it is", "leave out --precision, --ranges and --also"
            )
        if (self.ranges or self.also) and self.precision in ("fp32", "fp16"):
            raise OptionError(
                f"--ranges and --also are for INT8 and FP8, this is {self.precision}",
                "leave them out, or choose --precision int8",
            )

    @property
    def request(self) -> Request:
        """What is wanted of the checkpoint."""
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
        """The engine's name, which is its folder's. Raises `OptionError` when it cannot be one."""
        unusual = (self.image_size, _SHORT.get(self.task), self.precision)
        parts = (Path(self.checkpoint).name, *filter(None, unusual))
        name = self.name or "-".join(map(str, parts))
        _check_name(name)
        return name


def load(path: Path | None, given: dict[str, Any]) -> Recipe:
    """A recipe file's settings, overridden by those that are not None in `given`.

    Paths in it are relative to the current folder. Raises `ConfigError`, with its line, for a fault
    in the file, `OptionError` for a setting that cannot be, or a required one that is nowhere.
    """
    found = _read(path) if path else {}
    for key, value in given.items():
        if value is not None:
            found[key] = tuple(value) if isinstance(value, list) else value
    for key in _REQUIRED:
        if not found.get(key):
            raise OptionError(
                f"no {key} was given",
                "type edge build CHECKPOINT --calibration DIR, or name a --recipe that has both",
            )
    return Recipe(**found)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"there is no recipe {path}", "ls engines/*.toml shows them")
    document = toml.read(path)
    advice = partial(nearest, known=KEYS)
    return read_table(document, (), document.data, KEYS, advice)
