"""Activation ranges as a file: `edge calibrate` writes one, `edge quantize` and a build read it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from onnx import ModelProto

from edge.builder import graph
from edge.engine.passport import Calibration
from edge.errors import CalibrationError
from edge.files.storage import write_bytes

__all__ = ["Range", "Ranges"]

SCHEMA = 2

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """How one activation becomes INT8, and what was found about it. C is its number of channels.

    With a migration the activation x is `(x - shift) / scale` before it is quantised, and all but
    `before` is said of that.
    """

    amax: float  # largest absolute value to represent
    method: str  # what chose amax
    before: float  # largest absolute value seen in the graph as it was exported
    largest: float  # and after the migration
    strength: float | None = None  # of the migration: SmoothQuant's alpha
    scale: Vector = ()  # [C], of the migration; empty: none
    shift: float = 0.0  # subtracted from all values, to use the range's negative half
    mean: Vector = ()  # [C] of the values
    error: Vector = ()  # [C], mean of (quantised - value); both for the correction of biases
    clip: Vector = ()  # [outputs of all Linears], share of each weight channel's largest value
    sqnr_db: float | None = None  # of the Linears' output, on images that did not choose the range

    def __post_init__(self) -> None:
        """Raises ValueError for what no calibration gives."""
        numbers = (*self.scale, *self.mean, *self.error, *self.clip, self.shift, self.before)
        numbers += (self.largest, self.sqnr_db or 0.0)
        if not (math.isfinite(self.amax) and self.amax > 0 and all(map(math.isfinite, numbers))):
            raise ValueError(f"a range of {self.amax}, or a number that is not finite")
        if any(value <= 0 for value in (*self.scale, *self.clip)):
            raise ValueError("a scale or a clip that is not positive")


@dataclass(frozen=True)
class Ranges:
    method: str
    images: int
    set_sha256: str  # of the calibration set
    ranges: dict[str, Range]  # by activation tensor
    graph_sha256: str = ""  # of the graph that was calibrated: `graph.fingerprint`

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all. Raises `StorageError`."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        write_bytes(path, f"{text}\n".encode())

    def check(self, model: ModelProto) -> None:
        """Raises `CalibrationError` when another graph was calibrated."""
        if self.graph_sha256 != graph.fingerprint(model):
            raise CalibrationError(
                "the range table is of another graph, or of other weights",
                "calibrate this very checkpoint: leave out --ranges, or run edge calibrate",
            )

    def origin(self) -> Calibration:
        """Where the ranges come from, for the passport."""
        return Calibration(self.method, self.images, self.set_sha256)

    @staticmethod
    def read(path: Path) -> Ranges:
        """Raises `CalibrationError` when the file is missing or is no range table."""
        try:
            data = json.loads(path.read_text())
            if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            return msgspec.convert(data, Ranges)
        except FileNotFoundError:
            raise CalibrationError(f"there is no {path}", "make it: edge calibrate") from None
        except (ValueError, OSError, RecursionError) as error:
            raise CalibrationError(
                f"{path} is no range table ({error})", "make it again: edge calibrate"
            ) from error
