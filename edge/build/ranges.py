"""Activation ranges as a file: `edge calibrate` writes one, `edge quantize` reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from edge.errors import CalibrationError
from edge.passport import Calibration
from edge.storage import write_bytes

__all__ = ["Ranges"]

SCHEMA = 1


@dataclass(frozen=True)
class Ranges:
    method: str
    images: int
    set_sha256: str  # of the calibration set
    ranges: dict[str, float]  # activation tensor -> largest absolute value to represent

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all. Raises `StorageError`."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        write_bytes(path, f"{text}\n".encode())

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
