"""What a run is audited against: the FP32 graph of the engine's own checkpoint."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from edge.engine.heads import CLASSIFICATION, ZERO_SHOT
from edge.engine.passport import Passport
from edge.errors import EngineError

__all__ = ["Reference"]

TYPED = 200  # characters of labels that are typed; more belong into a file


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
        build = _how(engine)
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


def _how(engine: Passport) -> str:
    """The command that builds an engine's reference: it asks the same of the checkpoint."""
    head, checkpoint, one = engine.head, engine.checkpoint, "one"
    words = ["edge", "build", checkpoint.name]
    if head.task != CLASSIFICATION:  # which is the usual one where there is a choice
        words += ["--task", head.task]
    if head.pooling not in (None, "own"):
        words += ["--pooling", str(head.pooling)]
    if head.normalised:
        words += ["--normalise"]
    if head.task == ZERO_SHOT:
        labels = ",".join(head.labels)
        # A label with a comma is two on the command line.
        if len(labels) > TYPED or labels.count(",") >= len(head.labels):
            labels, one = "labels.txt", "one, with the engine's labels in labels.txt, one per line"
        words += ["--labels", labels]
    for template in head.templates:
        words += ["--template", template]
    if checkpoint.image_size is not None:
        words += ["--image-size", str(checkpoint.image_size)]
    words += ["--calibration", "DIR", "--precision", "fp32", "--name", f"{engine.name}-fp32"]
    return f"build {one}: {shlex.join(words)}"
