"""The gate: an engine's outputs against the FP32 graph's, on images it was not calibrated with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.build import graph
from edge.errors import CalibrationError, GateError
from edge.passport import Accuracy

__all__ = ["check_gate", "compare", "outputs"]

BATCH = 16
FEW = 20  # images below which not one may differ beyond the share

Tensor = npt.NDArray[np.float32]


def outputs(
    models: dict[str, ModelProto],
    pictures: Iterable[Tensor],
    ran: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Logits float32 [N, classes] of each model, on prepared images float32 [3, H, W], streamed.

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

    classes: the right class of each image, where known.
    """
    noise = float(((reference.astype(np.float64) - logits) ** 2).sum())
    signal = float((reference.astype(np.float64) ** 2).sum())
    top, top_reference = logits.argmax(1), reference.argmax(1)
    return Accuracy(
        images=len(reference),
        agreement=100 * float((top == top_reference).mean()),
        sqnr_db=10 * float(np.log10(signal / noise)) if noise else 999.0,
        max_error=float(abs(reference - logits).max()),
        top1=100 * float((top == classes).mean()) if classes else None,
        top1_fp32=100 * float((top_reference == classes).mean()) if classes else None,
    )


def check_gate(accuracy: dict[str, Accuracy], min_agreement: float) -> None:
    """Raises `GateError` when any form of the engine agrees with FP32 on too few images."""
    for form, measured in accuracy.items():
        # In a small set one image is worth several percent: the share is rounded up to a whole one.
        share = measured.images * (100 - min_agreement) / 100
        allowed = math.ceil(share - 1e-9) if measured.images >= FEW else math.floor(share + 1e-9)
        differing = round(measured.images * (100 - measured.agreement) / 100)
        if differing > allowed or not math.isfinite(measured.max_error):
            raise GateError(
                f"the {form} form agrees with FP32 on {measured.agreement:.2f} % of "
                f"{measured.images} images, the gate is {min_agreement:g} %",
                "calibrate and judge with more images of your own domain (--calibration, "
                "--heldout), try --precision fp16, or publish it unjudged: --no-gate",
            )
