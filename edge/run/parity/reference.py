"""What a run is audited against: the FP32 graph of the engine's own checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.errors import EngineError
from edge.passport import Passport

__all__ = ["Reference"]


@dataclass(frozen=True)
class Reference:
    """An FP32 graph, known to be whole.

    folder  the engine that has it
    graph   its file there: an engine built with --precision auto has several
    """

    folder: Path
    graph: str

    @staticmethod
    def find(engine: Passport, folder: Path) -> Reference:
        """The reference in `folder` for an engine.

        Raises `EngineError` when the folder holds no FP32 graph, is damaged, or was built from
        another checkpoint.
        """
        build = (
            f"build one: edge build {engine.checkpoint.name} --calibration DIR --precision fp32 "
            f"--name {engine.name}-fp32"
        )
        if not folder.is_dir():
            raise EngineError(f"there is no reference at {folder}", build)
        passport = Passport.read(folder)
        if passport.precision == "fp32":
            graph = "model.onnx"
        elif "fp32" in passport.candidates:
            graph = passport.candidates["fp32"].graph
        else:
            raise EngineError(f"{folder} is in {passport.precision}, which is no reference", build)
        if passport.checkpoint.sha256 != engine.checkpoint.sha256:
            other = f"another checkpoint, {passport.checkpoint.name}"
            raise EngineError(f"{folder} was built from {other}, than {engine.name}", build)
        if (passport.head, passport.preprocess) != (engine.head, engine.preprocess):
            raise EngineError(f"{folder} reads the checkpoint otherwise than {engine.name}", build)
        for name in {graph, f"{graph}.data"} & set(passport.files):
            passport.check_file(folder, name)
        return Reference(folder.resolve(), graph)
