"""The passport: what an engine is, what it was built from, and what it was measured at.

`engines/<name>/passport.json` stands beside an untouched `model.onnx` and `model.plan`, so that
other tools can read those too. It is checked before anything is loaded: a plan belongs to one
TensorRT version and GPU, and a file that was cut off in a copy is named, not crashed on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from edge.engine.heads import Head
from edge.errors import EngineError
from edge.files.storage import digest, write_bytes
from edge.preprocess.spec import Preprocess

__all__ = [
    "EXACT_DB",
    "FORMS",
    "Accuracy",
    "Calibration",
    "Carried",
    "File",
    "Origin",
    "Passport",
    "Plan",
]

SCHEMA = 4
_OLDEST = 3  # engines in the field outlive upgrades: see docs/stability.md
EXACT_DB = 999.0  # stands for no noise at all, which JSON has no number for
NAME = "passport.json"
# The forms of an engine that are judged, as people are told of them.
FORMS = {"portable": "model.onnx", "device": "the FP16-cast graph for model.plan"}


@dataclass(frozen=True)
class File:
    """A file of the engine: its SHA-256 and its size in bytes."""

    sha256: str
    bytes: int

    @staticmethod
    def of(path: Path) -> File:
        return File(digest(path), path.stat().st_size)


@dataclass(frozen=True)
class Accuracy:
    """An engine's outputs against the FP32 graph's, on the same held-out images."""

    images: int
    # Percent of images of which the same is said (`Head.agree`), or of embeddings that are near.
    agreement: float
    sqnr_db: float  # 10 log10(sum reference^2 / sum (reference - output)^2) over the outputs
    max_error: float  # largest absolute difference of an output
    top1: float | None  # percent right, where the images' classes are known
    top1_fp32: float | None  # the same for the FP32 graph
    cosine: float | None = None  # the lowest of an image's embedding with FP32's; of features only
    labels: float | None = None  # percent of all labels' own yes or no; of sigmoids only

    def __post_init__(self) -> None:
        """Raises ValueError when only one of the two is known."""
        if (self.top1 is None) != (self.top1_fp32 is None):
            raise ValueError("top1 without top1_fp32")


@dataclass(frozen=True)
class Origin:
    """The checkpoint that an engine was built from."""

    name: str  # as it was given: a path or a hub id
    architecture: str
    sha256: dict[str, str]  # of its files
    image_size: int | None = None  # pixels of a side, if others than it was trained with


@dataclass(frozen=True)
class Calibration:
    """Where the INT8 ranges of an engine come from."""

    method: str
    images: int
    sha256: str  # of the set of images


@dataclass(frozen=True)
class Plan:
    """A compiled plan and the only place where it runs."""

    backend: str  # tensorrt or tensorrt-rtx
    graph: str  # the file that it was compiled from
    version: str  # of TensorRT, exactly
    gpu: str | None  # None: compiled by TensorRT-RTX on a machine without one, for several
    compute_capability: str | None  # such as 8.7
    max_batch: int
    model_sha256: str  # of that file
    ms: float | None = None  # median time of one picture where it was compiled
    why: str = ""  # this graph and no other candidate's

    @property
    def gpus(self) -> str:
        """What it runs on, in words."""
        if self.gpu is None:
            # Those that NVIDIA's support matrix names for a plan that was made for no GPU of them.
            fits = "any GPU of compute capability 8.6, 8.9 or 12.0"
            return f"{fits} (a Jetson needs its own: edge compile ENGINE, on the board)"
        return f"{self.gpu} ({self.compute_capability})"


@dataclass(frozen=True)
class Carried:
    """A precision that passed the gate, carried along: only the board knows which is fastest."""

    graph: str  # file, model.onnx for the one that was chosen
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    ms: float | None  # median time of one picture with onnxruntime where it was built
    kept_fp16: tuple[str, ...] = ()  # Linears that its INT8 or FP8 would have harmed most


@dataclass(frozen=True)
class Passport:
    name: str
    fingerprint: str  # of all that it was built from: the same means nothing to rebuild
    precision: str  # fp32, fp16 or int8
    checkpoint: Origin
    head: Head
    outputs: int  # numbers that the network gives for a picture
    preprocess: Preprocess
    max_batch: int
    tools: dict[str, str]  # package -> version that built it
    calibration: Calibration | None
    judged: bool  # False: published with --no-gate, its accuracy is unknown or below the gate
    accuracy: dict[str, Accuracy]  # of `FORMS` -> measured
    verdict: str = ""  # which precision, and why
    kept_fp16: tuple[str, ...] = ()  # Linears that INT8 would have harmed most
    candidates: dict[str, Carried] = field(default_factory=dict)  # by precision
    files: dict[str, File] = field(default_factory=dict)
    plan: Plan | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what no build writes."""
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
        """Class id -> name; none where the engine gives embeddings."""
        return self.head.labels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return (3, self.preprocess.height, self.preprocess.width)

    def write(self, folder: Path) -> None:
        """Write `passport.json`, whole or not at all. Raises `StorageError`."""
        data = {"schema": SCHEMA, **asdict(self)}
        write_bytes(folder / NAME, (json.dumps(data, indent=1) + "\n").encode())

    def with_plan(self, plan: Plan | None, files: dict[str, File]) -> Passport:
        """The same passport with another plan and its file."""
        kept = {name: file for name, file in self.files.items() if name != "model.plan"}
        return replace(self, plan=plan, files={**kept, **files})

    @staticmethod
    def read(folder: Path) -> Passport:
        """Read `folder/passport.json`.

        Raises `EngineError` when the folder is no engine, or the passport is damaged or of
        another schema.
        """
        path = folder / NAME
        if not folder.is_dir():
            raise _elsewhere(folder)
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise EngineError(
                f"{folder} is no engine: it has no {NAME}", "give a folder made by edge build"
            ) from None
        except (ValueError, OSError, RecursionError) as error:
            raise _damaged(path, error) from error
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise EngineError(
                f"{path} has schema {schema}, this vit-edge reads {SCHEMA}",
                "upgrade vit-edge, or build the engine again",
            )
        if isinstance(schema, int) and schema < _OLDEST:
            raise EngineError(
                f"{path} has schema {schema}, this vit-edge reads {_OLDEST} to {SCHEMA}",
                "build the engine again: edge build CHECKPOINT",
            )
        try:
            return msgspec.convert(_migrated(data, schema), Passport)
        except msgspec.ValidationError as error:
            raise _damaged(path, error) from error

    def check_file(self, folder: Path, name: str) -> Path:
        """The path of one of the engine's files, known to be whole. Raises `EngineError`."""
        path, known = folder / name, self.files.get(name)
        if known is None or not path.is_file():
            raise EngineError(f"{path} is missing", "copy the engine folder again, whole")
        size = path.stat().st_size
        if size != known.bytes:
            raise EngineError(
                f"{path} is damaged: {size} bytes, its passport says {known.bytes}",
                "copy the engine folder again, or build it again",
            )
        if digest(path) != known.sha256:
            raise EngineError(
                f"{path} is damaged: its SHA-256 is not the passport's",
                "copy the engine folder again, or build it again",
            )
        return path


def _migrated(data: Any, schema: Any) -> Any:
    """The data of a passport of an older schema, in today's."""
    if schema == 3 and isinstance(data, dict) and isinstance(data.get("labels"), list):
        # Before schema 4 every engine was a classifier with a softmax.
        labels = data.pop("labels")
        return {**data, "head": {"labels": labels}, "outputs": len(labels)}
    return data


def _elsewhere(path: Path) -> EngineError:
    """Of what is no folder: it may be an engine's file, its recipe, or its name alone."""
    engines = Path("engines")
    places = (path.parent, engines / path.name, engines / path.stem)
    near = [place for place in places if (place / NAME).is_file()]
    if path.is_file():
        what, hint = f"{path} is a file, no engine's folder", "give a folder made by edge build"
    else:
        what, hint = f"there is no engine at {path}", "build one: edge build CHECKPOINT --name NAME"
    return EngineError(
        what, f"did you mean {near[0]}?" if near else f"{hint} (ls engines/ shows yours)"
    )


def _damaged(path: Path, error: Exception) -> EngineError:
    return EngineError(
        f"{path} is damaged ({error})",
        "copy the engine folder again, or build it again",
    )
