"""The reference of an audit: the FP32 graph of the engine's own checkpoint."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from edge.engine.heads import CLASSIFICATION, ZERO_SHOT
from edge.engine.passport import Passport
from edge.errors import EngineError

__all__ = ["Reference"]

MAX_LABELS_LENGTH = 200  # characters of labels on a command line; longer lists go into a file


@dataclass(frozen=True)
class Reference:
    """An FP32 graph whose checksum was verified.

    folder  folder of the engine that contains it
    graph   its file name there; an engine built with --precision auto has several graphs
    """

    folder: Path
    graph: str

    @staticmethod
    def find(engine: Passport, folder: Path) -> Reference:
        """Verify that `folder` contains a reference for an engine, and return it.

        Raises `EngineError` when the folder holds no FP32 graph, is damaged, or was built from
        another checkpoint.
        """
        build = _build_hint(engine)
        if not folder.is_dir():
            raise EngineError(f"there is no reference at {folder}", build)
        passport = Passport.read(folder)
        if passport.precision == "fp32":
            graph = "model.onnx"
        elif "fp32" in passport.candidates:
            graph = passport.candidates["fp32"].graph
        else:
            problem = f"{folder} is {passport.precision}; a reference must have an FP32 graph"
            raise EngineError(problem, build)
        if passport.checkpoint.sha256 != engine.checkpoint.sha256:
            problem = f"{folder} and {engine.name} were built from different checkpoints"
            raise EngineError(f"{problem} ({passport.checkpoint.name})", build)
        if (passport.head, passport.preprocess) != (engine.head, engine.preprocess):
            problem = f"{folder} and {engine.name} differ in task, labels or preprocessing"
            raise EngineError(problem, build)
        passport.check_file(folder, graph)
        return Reference(folder.resolve(), graph)


def _build_hint(engine: Passport) -> str:
    """The command that builds a reference with the task, labels and size of `engine`."""
    head, checkpoint, what = engine.head, engine.checkpoint, "one"
    words = ["edge", "build", checkpoint.name]
    if head.task != CLASSIFICATION:  # classification is the default
        words += ["--task", head.task]
    if head.pooling not in (None, "own"):
        words += ["--pooling", str(head.pooling)]
    if head.normalised:
        words += ["--normalise"]
    if head.task == ZERO_SHOT:
        labels = ",".join(head.labels)
        # A label with a comma would be read as two labels.
        if len(labels) > MAX_LABELS_LENGTH or labels.count(",") >= len(head.labels):
            labels = "labels.txt"
            what = "one, with the engine's labels in labels.txt, one per line"
        words += ["--labels", labels]
    for template in head.templates:
        words += ["--template", template]
    if checkpoint.image_size is not None:
        words += ["--image-size", str(checkpoint.image_size)]
    words += ["--calibration", "DIR", "--precision", "fp32", "--name", f"{engine.name}-fp32"]
    return f"build {what}: {shlex.join(words)}"
