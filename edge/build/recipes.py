"""Recipes: the settings of a build, from the command line or a TOML file `engines/<name>.toml`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edge.build.export import MAX_BATCH
from edge.build.models.tasks import Request
from edge.build.precision.calibrate import METHODS
from edge.build.precision.placement import PLACES
from edge.errors import EngineError
from edge.heads import POOLINGS, TASKS, Pooling, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["PRECISIONS", "Recipe", "load"]

PRECISIONS = ("fp32", "fp16", "int8", "fp8", "auto")

_PATHS = ("calibration", "heldout", "engines", "ranges", "graph")
_LISTS = ("also", "labels", "templates")
_REQUIRED = ("checkpoint", "calibration")
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "task": (None, *TASKS),
    "pooling": (None, *POOLINGS),
    "precision": PRECISIONS,
    "method": METHODS,
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
        """Raises `EngineError` for a setting that cannot be."""
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise EngineError(
                    f"there is no {key} {getattr(self, key)!r}",
                    f"choose one of: {', '.join(filter(None, choices))}",
                )
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise EngineError(f"max_batch is {self.max_batch}", f"use 1 to {MAX_BATCH}")
        if self.image_size is not None and self.image_size < 1:
            raise EngineError(f"image_size is {self.image_size}", "use pixels of a side, as in 384")
        if not 0 <= self.min_agreement <= 100:
            raise EngineError(f"min_agreement is {self.min_agreement}", "use a percent, 0 to 100")
        if unknown := sorted(set(self.also) - set(PLACES)):
            raise EngineError(
                f"there is no place {unknown[0]!r}", f"choose of: {', '.join(PLACES)}"
            )
        if self.graph is not None and (self.ranges or self.also or self.precision != "int8"):
            raise EngineError(
                "a --graph is taken as it is", "leave out --precision, --ranges and --also"
            )
        if (self.ranges or self.also) and self.precision in ("fp32", "fp16"):
            raise EngineError(
                f"--ranges and --also are for INT8 and FP8, this is {self.precision}",
                "leave them out, or choose --precision int8",
            )
        for key in ("ranges", "graph"):
            path = getattr(self, key)
            if path is not None and not path.is_file():
                raise EngineError(f"there is no file {path}", f"check --{key}")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise EngineError(f"max_drop is {self.max_drop}", "use points of top-1, 0 to 100")

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
        """The engine's name, which is its folder's. Raises `EngineError` when it cannot be one."""
        name = self.name or f"{Path(self.checkpoint).name}-{self.precision}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise EngineError(
                f"{name!r} cannot be the name of an engine",
                "use letters, digits, '.', '-' and '_': --name my-engine",
            )
        return name


def load(path: Path | None, given: dict[str, Any]) -> Recipe:
    """A recipe file's settings, overridden by those that are not None in `given`.

    Paths in it are relative to the current folder. Raises `EngineError` for a file that cannot be
    read, an unknown setting, or a required one that is nowhere.
    """
    settings = _read(path) if path else {}
    settings.update({key: value for key, value in given.items() if value is not None})
    for key in _REQUIRED:
        if not settings.get(key):
            raise EngineError(
                f"no {key} was given",
                "type edge build CHECKPOINT --calibration DIR, or name a --recipe that has both",
            )
    for key in _PATHS:
        if settings.get(key) == "":
            raise EngineError(f"{path}: {key} is empty", "name a folder, or remove the line")
        if key in settings:
            settings[key] = Path(settings[key])
    for key in _LISTS:
        settings[key] = tuple(settings.get(key, ()))
    return Recipe(**settings)


def _read(path: Path) -> dict[str, Any]:
    known = {field.name: field.type for field in fields(Recipe)}
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise EngineError(f"there is no recipe {path}", "ls engines/*.toml shows them") from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} is not valid TOML ({error})", "correct that line") from error
    for key, value in settings.items():
        if key not in known:
            raise EngineError(f"{path} has an unknown setting {key}", f"known: {', '.join(known)}")
        if not _fits(value, known[key]):
            raise EngineError(f"{path}: {key} = {value!r} is not a {known[key]}", "correct it")
    return settings


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a TOML value can be a Recipe field of the type named `wanted`."""
    wanted = wanted.removesuffix(" | None")
    if wanted.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if wanted == "bool":
        return isinstance(value, bool)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)
