"""`Passport`: the description of an engine, its origin and its measured accuracy.

`engines/<name>/passport.json` is a separate file, so `model.onnx` and `model.plan` stay in their
standard formats for other tools. The passport is checked before anything is loaded, since a plan
belongs to one TensorRT version and one GPU, and loading a truncated file could crash.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from edge.engine.accuracy import Accuracy, Gate
from edge.engine.heads import Head
from edge.engine.timing import Speed
from edge.errors import EngineError
from edge.files.reading import ACCESS, read_text
from edge.files.redaction import redact
from edge.files.storage import digest, write_bytes
from edge.preprocess.spec import Preprocess

__all__ = ["Calibration", "Carried", "File", "Origin", "Passport", "Plan", "Timed"]

SCHEMA = 4
_OLDEST = 3  # deployed engines must stay readable after upgrades: docs/stability.md
NAME = "passport.json"


@dataclass(frozen=True)
class File:
    """A file of the engine: its SHA-256 and its size in bytes."""

    sha256: str
    bytes: int

    @staticmethod
    def of(path: Path) -> File:
        """The entry for an existing file."""
        return File(digest(path), path.stat().st_size)


@dataclass(frozen=True)
class Origin:
    """The checkpoint from which an engine was built."""

    name: str  # as typed: a path or a hub id
    architecture: str
    sha256: dict[str, str]  # of its files
    image_size: int | None = None  # pixels per side, if other than in training


@dataclass(frozen=True)
class Calibration:
    """The source of an engine's INT8 ranges."""

    method: str
    images: int
    sha256: str  # of the set of images


@dataclass(frozen=True)
class Plan:
    """A compiled plan, and the TensorRT version and GPU that it needs."""

    backend: str  # tensorrt or tensorrt-rtx
    graph: str  # the file from which it was compiled
    version: str  # exact version of TensorRT
    gpu: str | None  # None: compiled by TensorRT-RTX on a machine without GPU, for several GPUs
    compute_capability: str | None  # such as 8.7
    max_batch: int
    model_sha256: str  # of the graph file
    ms: float | None = None  # median time for one image, on the machine that compiled it
    why: str = ""  # why this candidate's graph was compiled

    @property
    def gpus(self) -> str:
        """The GPUs on which the plan runs, as text."""
        if self.gpu is None:
            # According to NVIDIA's support matrix, for a plan that was compiled without a GPU.
            supported = "any GPU of compute capability 8.6, 8.9 or 12.0"
            return f"{supported} (a Jetson needs its own: edge compile ENGINE, on the board)"
        return f"{self.gpu} ({self.compute_capability})"


@dataclass(frozen=True)
class Carried:
    """A further candidate that passed the gate: only the board can tell which is fastest."""

    graph: str  # file name; model.onnx for the chosen candidate
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    ms: float | None  # median time for one image with onnxruntime, on the build machine
    kept_fp16: tuple[str, ...] = ()  # the Linears that are most sensitive to its INT8 or FP8


@dataclass(frozen=True)
class Timed:
    """How fast the candidates were on the build machine, for one image."""

    backend: str
    machine: str  # its CPU, and its load at the beginning
    rounds: int
    speed: dict[str, Speed]  # precision -> compared with FP32


@dataclass(frozen=True)
class Passport:
    """The contents of `passport.json`."""

    name: str
    fingerprint: str  # of all inputs of the build: if equal, a rebuild is not needed
    precision: str  # fp32, fp16 or int8
    checkpoint: Origin
    head: Head
    outputs: int  # numbers per image
    preprocess: Preprocess
    max_batch: int
    tools: dict[str, str]  # package -> version on the build machine
    calibration: Calibration | None
    judged: bool  # False: built with --no-gate; accuracy unknown or below the gate
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    verdict: str = ""  # the chosen precision and the reason
    kept_fp16: tuple[str, ...] = ()  # the Linears that are most sensitive to INT8
    candidates: dict[str, Carried] = field(default_factory=dict)  # by precision
    files: dict[str, File] = field(default_factory=dict)
    plan: Plan | None = None
    gate: Gate | None = None  # what it had to reach; None: no gate, or built before 0.2.0
    timing: Timed | None = None  # of all candidates on the build machine
    heldout: str = ""  # the origin of the images on which it was evaluated

    def __post_init__(self) -> None:
        """Raises ValueError for contents that no build writes."""
        if self.outputs < 1 or self.max_batch < 1 or "model.onnx" not in self.files:
            raise ValueError("no outputs, no batch or no model.onnx")
        if self.labels and len(self.labels) != self.outputs:
            raise ValueError(f"{len(self.labels)} labels for {self.outputs} outputs")
        graphs = {carried.graph for carried in self.candidates.values()}
        if self.plan:
            graphs.add(self.plan.graph)
        if not graphs <= set(self.files):
            raise ValueError(f"no file {sorted(graphs - set(self.files))}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Class id -> name; empty if the engine returns embeddings."""
        return self.head.labels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (3, self.preprocess.height, self.preprocess.width)

    def write(self, folder: Path) -> None:
        """Write `passport.json` atomically. Raises `StorageError`."""
        data = {"schema": SCHEMA, **asdict(self)}
        write_bytes(folder / NAME, (json.dumps(data, indent=1) + "\n").encode())

    def with_plan(self, plan: Plan | None, files: dict[str, File]) -> Passport:
        """A copy with another plan and its file; None and {} remove the plan."""
        kept = {name: file for name, file in self.files.items() if name != "model.plan"}
        return replace(self, plan=plan, files={**kept, **files})

    @staticmethod
    def read(folder: Path) -> Passport:
        """Read `folder/passport.json`.

        Raises `EngineError` if the folder is not an engine, or the passport is damaged or has an
        unsupported schema.
        """
        path = folder / NAME
        if not folder.is_dir():
            raise _not_found(folder)
        try:
            data = json.loads(read_text(path))
        except FileNotFoundError:
            raise EngineError(
                f"{folder} is not an engine: it has no {NAME}", "give a folder made by edge build"
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise EngineError(
                f"{path} has schema {schema}, but this vit-edge reads up to {SCHEMA}",
                "upgrade vit-edge, or build the engine again",
            )
        if isinstance(schema, int) and schema < _OLDEST:
            raise EngineError(
                f"{path} has schema {schema}, but this vit-edge reads {_OLDEST} to {SCHEMA}",
                "build the engine again: edge build CHECKPOINT",
            )
        try:
            return msgspec.convert(_migrated(data, schema), Passport)
        except msgspec.ValidationError as error:
            raise _damaged(path, error) from error

    def check_file(self, folder: Path, name: str) -> Path:
        """The path of an intact file of the engine. Raises `EngineError` otherwise."""
        path, known = folder / name, self.files.get(name)
        if known is None or not path.is_file():
            raise EngineError(f"{path} is missing", "copy the complete engine folder again")
        size = path.stat().st_size
        if size != known.bytes:
            raise EngineError(
                f"{path} is damaged: it has {size} bytes, expected {known.bytes}",
                "copy the engine folder again, or build it again",
            )
        try:
            found = digest(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if found != known.sha256:
            raise EngineError(
                f"{path} is damaged: its SHA-256 differs from the passport's",
                "copy the engine folder again, or build it again",
            )
        return path


def _migrated(data: Any, schema: Any) -> Any:
    """The data of a passport, converted from an older schema to the current one."""
    if schema == 3 and isinstance(data, dict) and isinstance(data.get("labels"), list):
        # Before schema 4 every engine was a classifier with a softmax.
        labels = data.pop("labels")
        return {**data, "head": {"labels": labels}, "outputs": len(labels)}
    return data


def _not_found(path: Path) -> EngineError:
    """The error for a path that is not a folder.

    It may be an engine's file, its recipe, or its name alone: then the hint gives the folder.
    """
    engines = Path("engines")
    places = (path.parent, engines / path.name, engines / path.stem)
    shown, near = redact(str(path)), [place for place in places if (place / NAME).is_file()]
    if path.is_file():
        what, hint = f"{shown} is a file, not an engine folder", "give a folder made by edge build"
    else:
        what = f"there is no engine at {shown}"
        hint = "build one: edge build CHECKPOINT --name NAME"
    return EngineError(
        what, f"did you mean {near[0]}?" if near else f"{hint} (ls engines/ shows yours)"
    )


def _unreadable(path: Path, error: OSError) -> EngineError:
    return EngineError(f"{path} cannot be read ({error.strerror or error})", ACCESS)


def _damaged(path: Path, error: Exception) -> EngineError:
    return EngineError(
        f"{path} is damaged ({error})",
        "copy the engine folder again, or build it again",
    )
