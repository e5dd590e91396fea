"""Outputs of graphs on prepared images, with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edge.builder import graph
from edge.errors import CalibrationError

__all__ = ["outputs"]

BATCH = 16

Tensor = npt.NDArray[np.float32]


def outputs(
    models: dict[str, ModelProto],
    images: Iterable[Tensor],
    ran: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Run models on prepared images: model name -> outputs, float32 [N, outputs].

    images: float32 [3, H, W] each, streamed in batches of `BATCH`. ran: called after each batch
    with its number of images. Raises `CalibrationError` when there is no image.
    """
    sessions = {name: graph.session(model) for name, model in models.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    stream = iter(images)
    while chunk := list(islice(stream, BATCH)):
        batch = np.stack(chunk)
        for name, session in sessions.items():
            logits[name].append(session.logits(batch))
        ran(len(chunk))
    if not all(logits.values()):
        raise CalibrationError(
            "none of the held-out images can be read", "give other images: --heldout DIR"
        )
    return {name: np.concatenate(parts) for name, parts in logits.items()}
