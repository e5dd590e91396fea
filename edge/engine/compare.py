"""Accuracy measures: outputs compared with the FP32 graph's on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge.engine.accuracy import EXACT_DB, NEAR, Accuracy
from edge.engine.heads import FEATURES, Head, labels_agree
from edge.errors import GateError, GraphError

__all__ = [
    *("accuracy_of", "agreeing", "compare", "compare_embeddings", "compare_labels", "cosines"),
]

Tensor = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def accuracy_of(
    reference: Tensor, found: Tensor, head: Head, classes: Sequence[int] | None = None
) -> Accuracy:
    """The accuracy of outputs against `reference`, both float32 [N, outputs], for a head.

    classes: the correct class of each image, where known. Raises `GateError` for NaN or infinity,
    `GraphError` when the shapes differ.

    >>> reference = np.array([[2.0, 1.0], [0.0, 1.0]], np.float32)
    >>> accuracy_of(reference, reference + 0.5, Head(labels=("cat", "dog"))).agreement
    100.0
    """
    if head.task == FEATURES:
        return compare_embeddings(reference, found)
    if head.activation == "sigmoid":
        return compare_labels(reference, found, classes, head)
    return compare(reference, found, classes)


def agreeing(reference: Tensor, found: Tensor, head: Head) -> Bools:
    """Whether each image's answer is that of `reference`: bool [N].

    For embeddings: whether the cosine is at least `NEAR`. reference, found: float32 [N, outputs].
    """
    if head.task == FEATURES:
        return np.asarray(cosines(reference, found) >= NEAR)
    return head.agree(head.probabilities(reference), head.probabilities(found))


def compare(reference: Tensor, logits: Tensor, classes: Sequence[int] | None) -> Accuracy:
    """The accuracy of `logits` against `reference`, both float32 [N, classes].

    classes: the correct class of each image, where known. Raises `GateError` for NaN or infinity,
    `GraphError` when the shapes differ.
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
    reference: Tensor, logits: Tensor, classes: Sequence[int] | None, head: Head
) -> Accuracy:
    """As `compare`, for a head with independent labels: every label of an image counts.

    The most probable label alone says little: with a single label it is always the same.
    """
    measured = compare(reference, logits, classes)
    fp32, engine = head.probabilities(reference), head.probabilities(logits)
    return replace(
        measured,
        agreement=100 * float(head.agree(fp32, engine).mean()),
        labels=100 * float(labels_agree(fp32, engine).mean()),
    )


def compare_embeddings(reference: Tensor, found: Tensor) -> Accuracy:
    """The accuracy of embeddings against `reference`, both float32 [N, channels].

    Two embeddings agree when their cosine is at least `NEAR`. Raises `GateError` for NaN or
    infinity, `GraphError` when the shapes differ.
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
    """The cosine of each embedding with its reference, float64 [N]; 0 for an embedding of zeros.

    reference, found: float32 [N, channels].
    """
    one, other = reference.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / np.maximum(lengths, 1e-300))


def _sqnr(reference: Tensor, found: Tensor) -> float:
    """SQNR in dB. Raises `GraphError` when the shapes differ, `GateError` for NaN or infinity."""
    if found.shape != reference.shape:
        raise GraphError(
            f"the graph has {found.shape[1]} outputs, the checkpoint {reference.shape[1]}",
            "give a graph of this checkpoint",
        )
    if not np.isfinite(found).all():
        raise GateError(
            "the engine's outputs are NaN or infinity on real images", "try --precision fp32"
        )
    noise = float(((reference.astype(np.float64) - found) ** 2).sum())
    signal = float((reference.astype(np.float64) ** 2).sum())
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise else EXACT_DB
