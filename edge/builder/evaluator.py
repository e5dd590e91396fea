"""Who decides: the held-out images, and what FP32 says of them, asked once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import image_sets, verify
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.weights import several
from edge.builder.observer import Observer
from edge.builder.report.findings import Disagreement
from edge.engine.heads import FEATURES, labels_agree
from edge.engine.passport import Accuracy
from edge.preprocess.images import load_image

__all__ = ["Evaluator"]

SHOWN = 24  # images of which FP32 and the engine say different things

Tensor = npt.NDArray[np.float32]
Said: TypeAlias = tuple[str, float]  # label, confidence


class Evaluator:
    """Measures the forms of an engine against the FP32 graph, on the same images every time."""

    def __init__(
        self, model: ModelProto, files: Sequence[Path], checkpoint: Checkpoint, observer: Observer
    ):
        self._files, self._checkpoint, self._observer = files, checkpoint, observer
        self._readable: list[Path] = []
        self._reference = self._run({"reference": model}, observer.warn)["reference"]
        self._embeds = checkpoint.head.task == FEATURES
        self._alone = checkpoint.head.activation == "sigmoid"  # each label by itself
        labels = checkpoint.head.labels
        twice = {path.parent.name for path in self._readable if labels.count(path.parent.name) > 1}
        if twice:
            observer.warn(
                f"{min(twice)} is the label of several classes: of the images in a folder of that "
                "name no class is known, and top-1 is not measured"
            )
        classes = [image_sets.class_of(path, labels) for path in self._readable]
        known = [label for label in classes if label is not None]
        self._classes = known if len(known) == len(classes) else None
        strange = sorted({path.parent.name for path in self._readable}.difference(labels))
        near = [label for name in strange[:SHOWN] if (label := _meant(name, labels))][:1]
        if strange and (known or near):  # else they lie by date, or in one folder
            observer.warn(
                f"no class of the model is called {several(strange)}, as folders of images are: "
                "top-1 is not measured" + (f" (did you mean {near[0]}?)" if near else "")
            )
        self.fp32 = self._compare(self._reference)
        if len(checkpoint.head.labels) == 1 and (same := np.unique(self._reference >= 0)).size == 1:
            observer.warn(
                f"FP32 says {'yes' if same[0] else 'no'} to {checkpoint.head.labels[0]!r} on every "
                "held-out image: judge with images of both, --heldout DIR"
            )

    def __call__(self, forms: dict[str, ModelProto]) -> dict[str, Accuracy]:
        """form -> how near it comes. Raises `GateError` for NaN or infinity."""
        logits = self._run(forms, lambda _: None)
        return {form: self._compare(found) for form, found in logits.items()}

    def disagreements(self, model: ModelProto) -> tuple[list[Disagreement], int]:
        """The images of which FP32 and `model` say different things, up to `SHOWN`, and how many.

        Those of which FP32 is surest come first: to be sure of something else is worse. An
        embedding says nothing that could be shown: of those only how many are not near. Of labels
        that are judged each by itself the one is shown that differs most.
        """
        logits = self._run({"engine": model}, lambda _: None)["engine"]
        if self._embeds:
            return [], int((verify.cosines(self._reference, logits) < verify.NEAR).sum())
        head = self._checkpoint.head
        fp32, engine = head.probabilities(self._reference), head.probabilities(logits)
        differ = np.flatnonzero(~head.agree(fp32, engine))
        sides = {at: self._sides(fp32[at], engine[at]) for at in differ}
        surest = sorted(differ, key=lambda at: -sides[at][2])[:SHOWN]
        shown = [
            Disagreement(
                image=f"{self._readable[at].parent.name}/{self._readable[at].name}",
                pixels=load_image(self._readable[at]),
                fp32=sides[at][0],
                engine=sides[at][1],
            )
            for at in surest
        ]
        return shown, len(differ)

    def _compare(self, found: Tensor) -> Accuracy:
        if self._embeds:
            return verify.compare_embeddings(self._reference, found)
        if self._alone:
            head = self._checkpoint.head
            return verify.compare_labels(self._reference, found, self._classes, head)
        return verify.compare(self._reference, found, self._classes)

    def _sides(self, fp32: Tensor, engine: Tensor) -> tuple[Said, Said, float]:
        """What either says of an image of which they disagree, and how sure FP32 is of it."""
        labels, two = self._checkpoint.head.labels, (int(fp32.argmax()), int(engine.argmax()))
        apart = ~labels_agree(fp32, engine)
        if self._alone and apart.any():
            two = (int((apart * abs(fp32 - engine)).argmax()),) * 2
        sure = float(fp32[two[0]])
        says = (labels[two[0]], sure), (labels[two[1]], float(engine[two[1]]))
        return *says, max(sure, 1 - sure) if self._alone else sure

    def _run(
        self, models: dict[str, ModelProto], skipped: Callable[[str], None]
    ) -> dict[str, Tensor]:
        readable: list[Path] = []
        done = 0

        def prepared() -> Iterator[Tensor]:
            found = image_sets.prepare(self._files, self._checkpoint.preprocess, skipped)
            for path, tensor in found:
                readable.append(path)
                yield tensor

        def ran(count: int) -> None:
            nonlocal done
            done += count
            self._observer.progress("images", done, len(self._files))

        logits = verify.outputs(models, prepared(), ran)
        self._readable = readable
        return logits


def _meant(folder: str, labels: Sequence[str]) -> str | None:
    """The label that a folder's name is almost, but for its case, or for a _ where a space is."""
    plain = {label.casefold().replace("_", " "): label for label in labels}
    name = folder.casefold().replace("_", " ")
    near = difflib.get_close_matches(name, plain, n=1, cutoff=0.8)
    return plain[near[0]] if near else None
