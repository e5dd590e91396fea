"""The evaluator: compares engines with the FP32 graph on the held-out images.

The FP32 graph runs once; its outputs are kept as the reference.
"""

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
from edge.builder.models.weights import shortened
from edge.builder.observer import Observer
from edge.builder.report.findings import ImageFinding, Review
from edge.engine.accuracy import NEAR, Accuracy
from edge.engine.compare import accuracy_of, cosines
from edge.engine.heads import FEATURES, labels_agree
from edge.errors import CalibrationError
from edge.preprocess.images import load_image

__all__ = ["Evaluator"]

SHOWN = 24  # the most images that are shown of one kind

Tensor = npt.NDArray[np.float32]
Answer: TypeAlias = tuple[str, float]  # label, confidence


class Evaluator:
    """Compares the forms of an engine with the FP32 graph, always on the same images.

    readable   the files of the images that can be read
    reference  the FP32 graph's outputs on these, float32 [N, outputs]
    fp32       its accuracy

    Warns the observer about image folders that match no label or several classes.
    """

    def __init__(
        self, model: ModelProto, files: Sequence[Path], checkpoint: Checkpoint, observer: Observer
    ):
        self._files, self._checkpoint, self._observer = files, checkpoint, observer
        self.readable: list[Path] = []
        self.reference = self._run({"reference": model}, observer.warn)["reference"]
        self._embeds = checkpoint.head.task == FEATURES
        self._independent = checkpoint.head.activation == "sigmoid"  # independent labels
        labels = checkpoint.head.labels
        self._check_classes()
        twice = {path.parent.name for path in self.readable if labels.count(path.parent.name) > 1}
        if twice:
            observer.warn(
                f"folder {min(twice)!r} matches several classes with the same label; "
                "top-1 not measured"
            )
        classes = [image_sets.class_of(path, labels) for path in self.readable]
        known = [label for label in classes if label is not None]
        self._classes = known if len(known) == len(classes) else None
        pairs = zip(self.readable, classes, strict=True)
        unmatched = sorted({path.parent.name for path, at in pairs if at is None} - set(labels))
        near = [label for name in unmatched[:SHOWN] if (label := _closest(name, labels))][:1]
        numbers = [int(name) for name in unmatched if name.isdecimal()]
        if numbers and len(numbers) == len(unmatched) and max(numbers) < len(labels):
            observer.warn(
                f"the folders of the held-out images are numbers; top-1 not measured: name them "
                f"like the labels, such as {labels[min(numbers)]!r} for {min(numbers)}"
            )
        # Without any match the folders are not meant as classes: sorted by date, or only one.
        elif unmatched and (known or near):
            folders = shortened([repr(name) for name in unmatched])
            observer.warn(
                (f"folder {folders} matches" if len(unmatched) == 1 else f"folders {folders} match")
                + " no label"
                + (f" (did you mean {near[0]!r}?)" if near else "")
                + "; top-1 not measured"
            )
        self.fp32 = self._compare(self.reference)
        if len(checkpoint.head.labels) == 1 and (same := np.unique(self.reference >= 0)).size == 1:
            observer.warn(
                f"FP32 answers {'yes' if same[0] else 'no'} to {checkpoint.head.labels[0]!r} on "
                "every held-out image; hold out images of both kinds: --heldout DIR"
            )

    def outputs(self, forms: dict[str, ModelProto]) -> dict[str, Tensor]:
        """form -> its outputs on the readable images, float32 [N, outputs]."""
        return self._run(forms, lambda _: None)

    def accuracy(self, outputs: dict[str, Tensor]) -> dict[str, Accuracy]:
        """form -> the accuracy of its outputs. Raises `GateError` for NaN or infinity."""
        return {form: self._compare(found) for form, found in outputs.items()}

    def review(self, outputs: Tensor) -> Review:
        """The images on which FP32 and an engine disagree, and those that FP32 itself gets wrong.

        Up to `SHOWN` of each, sorted by FP32's confidence, highest first: a disagreement is worse
        where FP32 is sure, and where it is sure and wrong the folder's label may be wrong.
        Embeddings have no label to show: only the number below a cosine of `NEAR` is returned. With
        independent labels the label that differs most is shown. outputs: the engine's.
        """
        if self._embeds:
            return Review(differing=int((cosines(self.reference, outputs) < NEAR).sum()))
        head = self._checkpoint.head
        fp32, engine = head.probabilities(self.reference), head.probabilities(outputs)
        differ = np.flatnonzero(~head.agree(fp32, engine))
        mistaken: Sequence[int] = ()
        if self._classes is not None:
            mistaken = np.flatnonzero(fp32.argmax(1) != np.array(self._classes)).tolist()

        def shown(images: Sequence[int]) -> list[ImageFinding]:
            answers = {at: self._answers(fp32[at], engine[at]) for at in images}
            most_confident = sorted(images, key=lambda at: -answers[at][2])[:SHOWN]
            return [self._finding(at, *answers[at][:2]) for at in most_confident]

        return Review(
            disagreements=shown(differ.tolist()),
            differing=len(differ),
            mistakes=shown(mistaken),
            wrong=None if self._classes is None else len(mistaken),
        )

    def _finding(self, at: int, fp32: Answer, engine: Answer) -> ImageFinding:
        path = self.readable[at]
        return ImageFinding(
            image=f"{path.parent.name}/{path.name}",
            pixels=load_image(path),
            fp32=fp32,
            engine=engine,
            truth=self._checkpoint.head.labels[self._classes[at]] if self._classes else "",
        )

    def _check_classes(self) -> None:
        """Raises `CalibrationError` when no image of a class can be read: top-1 would be wrong."""
        vanished = {path.parent for path in self._files}
        vanished.difference_update(path.parent for path in self.readable)
        for folder in sorted(vanished):
            if image_sets.class_of(folder / "image", self._checkpoint.head.labels) is not None:
                raise CalibrationError(
                    f"none of the held-out images in {folder} can be read",
                    "see the reasons above; replace them, or hold out other images: --heldout DIR",
                )

    def _compare(self, found: Tensor) -> Accuracy:
        return accuracy_of(self.reference, found, self._checkpoint.head, self._classes)

    def _answers(self, fp32: Tensor, engine: Tensor) -> tuple[Answer, Answer, float]:
        """FP32's and the engine's answer for one image on which they disagree; FP32's certainty."""
        labels, shown = self._checkpoint.head.labels, (int(fp32.argmax()), int(engine.argmax()))
        differ = ~labels_agree(fp32, engine)
        if self._independent and differ.any():
            shown = (int((differ * abs(fp32 - engine)).argmax()),) * 2
        confidence = float(fp32[shown[0]])
        answers = (labels[shown[0]], confidence), (labels[shown[1]], float(engine[shown[1]]))
        return *answers, max(confidence, 1 - confidence) if self._independent else confidence

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
        self.readable = readable
        return logits


def _closest(folder: str, labels: Sequence[str]) -> str | None:
    """The label most similar to a folder's name; case, and `_` for a space, do not count."""
    plain = {label.casefold().replace("_", " "): label for label in labels}
    name = folder.casefold().replace("_", " ")
    near = difflib.get_close_matches(name, plain, n=1, cutoff=0.8)
    return plain[near[0]] if near else None
