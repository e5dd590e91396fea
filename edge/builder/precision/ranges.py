"""The range table: a JSON file that `edge calibrate` writes and `edge quantize` and builds read."""

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
from edge.files.reading import ACCESS, read_text
from edge.files.storage import write_bytes

__all__ = ["Range", "Ranges"]

SCHEMA = 2

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """The range of one activation, its migration, and what was measured. C: number of channels.

    With a migration the activation x is `(x - shift) / scale` before it is quantised; all fields
    except `before` describe this migrated activation.
    """

    amax: float  # largest absolute value to represent
    method: str  # by which amax was chosen
    before: float  # largest absolute value in the graph as exported
    largest: float  # largest absolute value after migration
    strength: float | None = None  # of the migration: SmoothQuant's alpha
    scale: Vector = ()  # [C], divisors of the migration; empty: none
    shift: float = 0.0  # subtracted from all values, to use the negative half of the range
    mean: Vector = ()  # [C], mean of the values; for the correction of biases
    error: Vector = ()  # [C], mean of (quantised - value); for the correction of biases
    clip: Vector = ()  # [outputs of all Linears], share of each weight channel's largest value
    sqnr_db: float | None = None  # of the Linears' output, on images not used to choose the range

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no calibration can give."""
        numbers = (*self.scale, *self.mean, *self.error, *self.clip, self.shift, self.before)
        numbers += (self.largest, self.sqnr_db or 0.0)
        if not (math.isfinite(self.amax) and self.amax > 0 and all(map(math.isfinite, numbers))):
            raise ValueError(f"a range of {self.amax}, or a number that is not finite")
        if any(value <= 0 for value in (*self.scale, *self.clip)):
            raise ValueError("a scale or a clip that is not positive")


@dataclass(frozen=True)
class Ranges:
    """The ranges of a graph, with their origin."""

    method: str
    images: int
    set_sha256: str  # of the calibration set
    ranges: dict[str, Range]  # by activation tensor
    graph_sha256: str = ""  # of the graph that was calibrated: `graph.fingerprint`

    def write(self, path: Path) -> None:
        """Write the table as JSON, atomically. Raises `StorageError`."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        write_bytes(path, f"{text}\n".encode())

    def check(self, model: ModelProto) -> None:
        """Raise `CalibrationError` when the table belongs to another graph."""
        if self.graph_sha256 != graph.fingerprint(model):
            raise CalibrationError(
                "the range table belongs to another graph, or to other weights",
                "calibrate this checkpoint: leave out --ranges, or run edge calibrate",
            )

    def origin(self) -> Calibration:
        """The origin of the ranges, for the passport."""
        return Calibration(self.method, self.images, self.set_sha256)

    @staticmethod
    def read(path: Path) -> Ranges:
        """Read a table. Raises `CalibrationError` when the file is missing or not a range table."""
        try:
            data = json.loads(read_text(path))
            if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            return msgspec.convert(data, Ranges)
        except FileNotFoundError:
            raise CalibrationError(
                f"there is no file {path}", "create it with edge calibrate"
            ) from None
        except OSError as error:
            raise CalibrationError(
                f"{path} cannot be read ({error.strerror or error})", ACCESS
            ) from error
        except (ValueError, RecursionError) as error:
            raise CalibrationError(
                f"{path} is not a range table ({error})", "create it with edge calibrate"
            ) from error
