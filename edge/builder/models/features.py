"""Pooling: one embedding per image from the output of a backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge.builder.models.checkpoint import Checkpoint
from edge.errors import CheckpointError

__all__ = ["pooled", "unit"]


def unit(vectors: Any) -> Any:
    """Vectors, torch [N, channels], scaled to length 1.

    Without the epsilon of torch's normalize, which FP16 cannot represent; no image gives 0.
    """
    return vectors / vectors.norm(dim=-1, keepdim=True)


def pooled(checkpoint: Checkpoint, model: Any) -> Callable[[Any], Any]:
    """A function that pools the output of a checkpoint's model to torch [N, channels].

    The mean covers patch tokens only: not the class token, a distillation token or registers. The
    function raises `CheckpointError` for pooling `own` when the model has no pooling.
    """
    head = checkpoint.head
    special = checkpoint.family.special + getattr(model.config, "num_register_tokens", 0)
    special += getattr(model.config, "n_cls_tokens", 1) - 1

    def own(output: Any) -> Any:
        projected = getattr(output, "image_embeds", None)  # of a CLIP
        vector = getattr(output, "pooler_output", None) if projected is None else projected
        if vector is None:
            raise CheckpointError(
                f"{checkpoint.name} has no pooling of its own", "choose --pooling mean"
            )
        return vector

    def mean(output: Any) -> Any:
        hidden = output.last_hidden_state  # tokens [N, tokens, C], or a map [N, C, rows, columns]
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, special:].mean(1)

    poolings = {"own": own, "cls": lambda output: output.last_hidden_state[:, 0], "mean": mean}
    pool = poolings[head.pooling or "own"]
    return (lambda output: unit(pool(output))) if head.normalised else pool
