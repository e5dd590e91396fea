"""The gate: an engine's outputs against the FP32 graph's, on images it was not calibrated with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import graph
from edge.engine.heads import Head, labels_agree
from edge.engine.passport import EXACT_DB, FORMS, Accuracy
from edge.errors import CalibrationError, GateError, GraphError

__all__ = [
    "NEAR",
    "OPEN",
    "Gate",
    "compare",
    "compare_embeddings",
    "compare_labels",
    "cosines",
    "outputs",
]

BATCH = 16
NEAR = 0.99  # cosine with FP32's from which two embeddings agree: 8 degrees apart
FEW = 20  # images below which not one may differ beyond the share

Tensor = npt.NDArray[np.float32]


def outputs(
    models: dict[str, ModelProto],
    pictures: Iterable[Tensor],
    ran: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Outputs float32 [N, outputs] of each model, on prepared images float32 [3, H, W], streamed.

    `ran` hears how many images each batch had. Raises `CalibrationError` when there is no image.
    """
    sessions = {name: graph.session(model) for name, model in models.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    stream = iter(pictures)
    while chunk := list(islice(stream, BATCH)):
        batch = np.stack(chunk)
        for name, session in sessions.items():
            logits[name].append(session.logits(batch))
        ran(len(chunk))
    if not all(logits.values()):
        raise CalibrationError("no image could be read to judge with", "give others: --heldout DIR")
    return {name: np.concatenate(parts) for name, parts in logits.items()}


def compare(reference: Tensor, logits: Tensor, classes: list[int] | None) -> Accuracy:
    """How near `logits` come to `reference`, both float32 [N, classes].

    classes: the right class of each image, where known. Raises `GateError` for NaN or infinity.
    """
    sqnr_db = _sqnr(reference, logits)
    top, top_reference = logits.argmax(1), reference.argmax(1)
    return Accuracy(
        images=len(reference),
        agreement=100 * float((top == top_reference).mean()),
        sqnr_db=sqnr_db,
        max_error=float(abs(reference - logits).max()),
        top1=100 * float((top == classes).mean()) if classes else None,
        top1_fp32=100 * float((top_reference == classes).mean()) if classes else None,
    )


def compare_labels(
    reference: Tensor, logits: Tensor, classes: list[int] | None, head: Head
) -> Accuracy:
    """As `compare`, of a head whose labels each have a probability of their own: all are judged.

    The best of them alone says little: of one label it is always the same.
    """
    measured = compare(reference, logits, classes)
    fp32, engine = head.probabilities(reference), head.probabilities(logits)
    return replace(
        measured,
        agreement=100 * float(head.agree(fp32, engine).mean()),
        labels=100 * float(labels_agree(fp32, engine).mean()),
    )


def compare_embeddings(reference: Tensor, found: Tensor) -> Accuracy:
    """How near embeddings come to `reference`, both float32 [N, channels].

    Two agree when their cosine is at least `NEAR`. Raises `GateError` for NaN or infinity.
    """
    sqnr_db = _sqnr(reference, found)
    near = cosines(reference, found)
    return Accuracy(
        images=len(reference),
        agreement=100 * float((near >= NEAR).mean()),
        sqnr_db=sqnr_db,
        max_error=float(abs(reference - found).max()),
        top1=None,
        top1_fp32=None,
        cosine=float(near.min()),
    )


def cosines(reference: Tensor, found: Tensor) -> npt.NDArray[np.float64]:
    """Of each embedding with its reference, both float32 [N, channels]; 0 for one of zeros."""
    one, other = reference.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / np.maximum(lengths, 1e-300))


def _sqnr(reference: Tensor, found: Tensor) -> float:
    """Signal to noise in dB. Raises `GraphError` for another shape, `GateError` for NaN."""
    if found.shape != reference.shape:
        raise GraphError(
            f"the graph has {found.shape[1]} outputs, the checkpoint {reference.shape[1]}",
            "give the graph of this very checkpoint",
        )
    if not np.isfinite(found).all():
        raise GateError(
            "the engine's outputs are NaN or infinity on real images", "try --precision fp32"
        )
    noise = float(((reference.astype(np.float64) - found) ** 2).sum())
    signal = float((reference.astype(np.float64) ** 2).sum())
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise else EXACT_DB


@dataclass(frozen=True)
class Gate:
    """What an engine must reach on images that did not calibrate it."""

    # Percent of images of which FP32 says the same (`Head.agree`), or of embeddings that are near.
    min_agreement: float
    max_drop: float | None  # points of top-1 that may be lost, where the classes are known

    def __str__(self) -> str:
        if self == OPEN:
            return "none"
        drop = "" if self.max_drop is None else f", at most {self.max_drop:g} points of top-1 lost"
        return f"{self.min_agreement:g} % agreement{drop}"

    def refuses(self, accuracy: dict[str, Accuracy]) -> str | None:
        """Why an engine with these forms may not be published; None when it may."""
        for form, measured in accuracy.items():
            # In a small set one image is worth several percent: the share is rounded up to a
            # whole one.
            share = measured.images * (100 - self.min_agreement) / 100
            few = measured.images < FEW
            allowed = math.floor(share + 1e-9) if few else math.ceil(share - 1e-9)
            if round(measured.images * (100 - measured.agreement) / 100) > allowed:
                return (
                    f"{FORMS[form]} agrees with FP32{_meant(measured)} on "
                    f"{measured.agreement:.2f} % of {measured.images} images, the gate is "
                    f"{self.min_agreement:g} %"
                )
            if self.max_drop is None or measured.top1 is None or measured.top1_fp32 is None:
                continue
            drop = measured.top1_fp32 - measured.top1
            if drop > self.max_drop + 1e-9:
                return (
                    f"{FORMS[form]} loses {drop:.2f} points of top-1 on {measured.images} "
                    f"images, {self.max_drop:g} are allowed"
                )
        return None


def _meant(measured: Accuracy) -> str:
    """What it is to agree, where it is not to have the same best class."""
    if measured.cosine is not None:
        return f" (a cosine of {NEAR:g})"
    return "" if measured.labels is None else " (yes or no to each label)"


OPEN = Gate(0.0, None)  # lets all pass
