"""`Passport`: the description of an engine, its origin and its measured accuracy.

`engines/<name>/passport.json` is a separate file, so `model.onnx` and `model.plan` stay in their
standard formats for other tools. The passport is checked before anything is loaded, since a plan
belongs to one TensorRT version and one GPU, and loading a truncated file could crash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from edge.engine.accuracy import FORMS, Accuracy, Gate
from edge.engine.choices import MAX_BATCH, PlanBackend, Precision
from edge.engine.external_data import external_files
from edge.engine.heads import Head
from edge.engine.timing import Speed
from edge.errors import EngineError
from edge.files.reading import ACCESS, read_bytes
from edge.files.redaction import redact
from edge.files.storage import digest, write_bytes
from edge.preprocess.spec import Preprocess

__all__ = [
    *("Calibration", "Carried", "File", "Origin", "Passport", "Plan", "PlanAccuracy", "Timed"),
    "Witnessed",
]

SCHEMA = 4
_OLDEST = 3  # deployed engines must stay readable after upgrades: docs/stability.md
NAME = "passport.json"

# `Passport.read` checks these; a file's name cannot lead out of the engine's folder.
_FileName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Precision = Annotated[str, msgspec.Meta(pattern=rf"\A({'|'.join(get_args(Precision))})\Z")]
_Backend = Annotated[str, msgspec.Meta(pattern=rf"\A({'|'.join(get_args(PlanBackend))})\Z")]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Outputs = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
_Batch = Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
_Ms = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class File:
    """A file of the engine: its SHA-256 and its size in bytes."""

    sha256: _Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0)]

    @staticmethod
    def of(path: Path) -> File:
        """The entry for an existing file."""
        return File(digest(path), path.stat().st_size)


@dataclass(frozen=True)
class Origin:
    """The checkpoint from which an engine was built."""

    name: str  # as typed: a path or a hub id
    architecture: str
    sha256: dict[str, _Sha256]  # of its files
    image_size: _Count | None = None  # pixels per side, if other than in training


@dataclass(frozen=True)
class Calibration:
    """The source of an engine's INT8 ranges."""

    method: str
    images: _Count
    sha256: _Sha256  # of the set of images


@dataclass(frozen=True)
class Plan:
    """A compiled plan, and the TensorRT version and GPU that it needs."""

    backend: _Backend
    graph: str  # the file from which it was compiled
    version: str  # exact version of TensorRT
    gpu: str | None  # None: compiled by TensorRT-RTX on a machine without GPU, for several GPUs
    compute_capability: str | None  # such as 8.7
    max_batch: _Batch
    model_sha256: _Sha256  # of the graph file
    ms: _Ms | None = None  # median time for one image, on the machine that compiled it
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
    """A candidate that passed the gate and was not chosen: the board may find it the fastest."""

    graph: str  # file name; model.onnx for the chosen candidate
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    ms: _Ms | None  # median time for one image with onnxruntime, on the build machine
    kept_fp16: tuple[str, ...] = ()  # the Linears that are most sensitive to its INT8 or FP8


@dataclass(frozen=True)
class Timed:
    """How fast the candidates were on the build machine, for one image."""

    backend: str
    machine: str  # its CPU, and its load at the beginning
    rounds: _Count
    speed: dict[_Precision, Speed]  # precision -> compared with FP32


@dataclass(frozen=True)
class Witnessed:
    """The witnesses in the engine's folder (`Witnesses`), and its graphs' own accuracy on them."""

    images: _Count
    origin: str  # of the images
    accuracy: dict[_Precision, dict[str, Accuracy]]  # candidate -> of `FORMS` -> measured


@dataclass(frozen=True)
class PlanAccuracy:
    """The accuracy of `model.plan` on the witnesses, measured on the machine that compiled it."""

    accuracy: Accuracy  # the worst value of each figure over all runs
    batches: tuple[_Batch, ...]  # the batch sizes
    runs: _Count  # of all witnesses: each batch size, enqueued and as a CUDA graph, repeated
    fix: str = ""  # how the plan differs from its graph, if the graph as it is was refused
    refused: tuple[str, ...] = ()  # what was tried before, and why it was refused

    def __str__(self) -> str:
        """In words, after the name of the plan."""
        return self.accuracy.on_witnesses


@dataclass(frozen=True)
class Passport:
    """The contents of `passport.json`."""

    name: str
    fingerprint: str  # of all inputs of the build: if equal, a rebuild is not needed
    precision: _Precision
    checkpoint: Origin
    head: Head
    outputs: _Outputs  # numbers per image
    preprocess: Preprocess
    max_batch: _Batch
    tools: dict[str, str]  # package -> version on the build machine
    calibration: Calibration | None
    judged: bool  # False: built with --no-gate; accuracy unknown or below the gate
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    verdict: str = ""  # the chosen precision and the reason
    kept_fp16: tuple[str, ...] = ()  # the Linears that are most sensitive to INT8
    candidates: dict[_Precision, Carried] = field(default_factory=dict)
    files: dict[_FileName, File] = field(default_factory=dict)
    plan: Plan | None = None
    gate: Gate | None = None  # what it had to reach; None: no gate, or built before 0.2.0
    timing: Timed | None = None  # of all candidates on the build machine
    heldout: str = ""  # the origin of the images on which it was evaluated
    witnesses: Witnessed | None = None  # None: built before 0.2.0
    plan_accuracy: PlanAccuracy | None = None  # None: no plan, or it was compiled without a GPU

    def __post_init__(self) -> None:
        """Raises ValueError for contents that no build writes."""
        if "model.onnx" not in self.files:
            raise ValueError("no model.onnx")
        witnessed = self.witnesses.accuracy.values() if self.witnesses else ()
        carried = (one.accuracy for one in self.candidates.values())
        for accuracy in (self.accuracy, *carried, *witnessed):
            if unknown := set(accuracy).difference(FORMS):
                raise ValueError(f"accuracy of {min(unknown)}, which is no form of an engine")
        if self.labels and len(self.labels) != self.outputs:
            raise ValueError(f"{len(self.labels)} labels for {self.outputs} outputs")
        graphs = {one.graph for one in self.candidates.values()}
        if self.plan:
            graphs.add(self.plan.graph)
        if not graphs <= set(self.files):
            raise ValueError(f"no file {sorted(graphs - set(self.files))}")
        if self.plan_accuracy and not self.plan:
            raise ValueError("the accuracy of a plan, and no plan")

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
        """A copy with another plan and its file, not judged; None and {} remove the plan."""
        kept = {name: file for name, file in self.files.items() if name != "model.plan"}
        return replace(self, plan=plan, plan_accuracy=None, files={**kept, **files})

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
            # Not by `json`, which reads NaN, Infinity and halves of a surrogate pair.
            data = msgspec.json.decode(read_bytes(path))
        except FileNotFoundError:
            raise EngineError(
                f"{folder} is not an engine: it has no {NAME}", "give a folder made by edge build"
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if type(schema) is not int:
            raise _damaged(path, f"its schema is {schema!r}")
        if schema > SCHEMA:
            raise EngineError(
                f"{path} has schema {schema}, but this vit-edge reads up to {SCHEMA}",
                "upgrade vit-edge, or build the engine again",
            )
        if schema < _OLDEST:
            raise EngineError(
                f"{path} has schema {schema}, but this vit-edge reads {_OLDEST} to {SCHEMA}",
                "build the engine again: edge build CHECKPOINT",
            )
        try:
            return msgspec.convert(_migrated(data, schema), Passport)
        except msgspec.ValidationError as error:
            raise _damaged(path, error) from error

    def check_files(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Raises `EngineError` unless files of the engine are intact; by default all are checked.

        With a graph its external weights are checked, too: they must be files of the engine.
        """
        waiting, checked = sorted(self.files if names is None else names), set[str]()
        while waiting:
            name = waiting.pop()
            if name in checked:
                continue
            checked.add(name)
            try:
                self._check_bytes(folder / name)
                weights = external_files(folder / name) if name.endswith(".onnx") else set()
            except EngineError:
                raise
            except OSError as error:
                raise _unreadable(folder / name, error) from error
            except ValueError as error:
                raise _damaged(folder / name, error) from error
            if unlisted := weights.difference(self.files):
                raise _damaged(folder / name, f"{min(unlisted)} is no file of the engine")
            waiting += sorted(weights)

    def check_file(self, folder: Path, name: str) -> Path:
        """The path of a file that `check_files` accepts. Raises `EngineError`."""
        self.check_files(folder, [name])
        return folder / name

    def _check_bytes(self, path: Path) -> None:
        """Raises `EngineError` unless a file has the size and the checksum in the passport."""
        known = self.files.get(path.name)
        if known is None or not path.is_file():
            raise EngineError(f"{path} is missing", "copy the complete engine folder again")
        size = path.stat().st_size
        if size != known.bytes:
            raise _damaged(path, f"it has {size} bytes, expected {known.bytes}")
        if digest(path) != known.sha256:
            raise _damaged(path, "its SHA-256 differs from the passport's")


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


def _damaged(path: Path, error: Exception | str) -> EngineError:
    return EngineError(
        f"{path} is damaged: {error}",
        "copy the engine folder again, or build it again",
    )
