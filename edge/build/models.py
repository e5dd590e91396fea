"""Checkpoint -> the torch module that is exported: pictures in, logits or an embedding out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.build import resolution, timm_models
from edge.build.checkpoint import Checkpoint
from edge.build.families import FAMILIES, TIMM
from edge.errors import CheckpointError, require
from edge.heads import CLASSIFICATION, FEATURES

__all__ = ["for_export", "load", "quiet"]

ATTENTION = "edge_vit"


def load(checkpoint: Checkpoint) -> Any:
    """The checkpoint as transformers runs it, every weight of it from the file.

    A torch module: pixel_values float32 [N, 3, H, W] -> float32 [N, outputs], logits or embeddings
    by `checkpoint.head`. Raises `CheckpointError` for weights that do not fit the config.
    """
    torch = require("torch")

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, model: Any, forward: Any) -> None:
            super().__init__()
            self.model, self._forward = model, forward

        def forward(self, pixel_values: Any) -> Any:
            return self._forward(pixel_values)

    if checkpoint.family is FAMILIES[TIMM]:
        model = timm_models.load(checkpoint)
        return Network(model, timm_models.output(checkpoint, model)).eval()
    transformers = require("transformers")
    if checkpoint.head.task == CLASSIFICATION:
        model = _pretrained(transformers.AutoModelForImageClassification, checkpoint)
        return Network(model, lambda pictures: model(pixel_values=pictures).logits).eval()
    assert checkpoint.head.task == FEATURES
    model = _pretrained(transformers.AutoModel, checkpoint)
    pooled = _pooled(checkpoint)
    return Network(model, lambda pictures: pooled(model(pixel_values=pictures))).eval()


def for_export(network: Any) -> None:
    """Let the network of `load` attend in the form that TensorRT fuses."""
    if hasattr(network.model, "set_attn_implementation"):
        network.model.set_attn_implementation(ATTENTION)
    else:
        timm_models.for_export(network.model)


def _pooled(checkpoint: Checkpoint) -> Any:
    """What makes one vector of a backbone's output, torch [N, channels]."""
    torch = require("torch")
    head = checkpoint.head

    def pooled(output: Any) -> Any:
        tokens = output.last_hidden_state
        vector = {
            "own": lambda: output.pooler_output,
            "cls": lambda: tokens[:, 0],
            "mean": lambda: tokens[:, 1:].mean(1),
        }[head.pooling or "own"]()
        return torch.nn.functional.normalize(vector, dim=-1) if head.normalised else vector

    return pooled


def _pretrained(auto: Any, checkpoint: Checkpoint) -> Any:
    torch = require("torch")
    try:
        model, info = auto.from_pretrained(
            checkpoint.folder,
            attn_implementation="eager",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a config of odd values can raise anything in transformers
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{checkpoint.name} cannot be loaded ({reason})", "download the checkpoint again"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{checkpoint.name} has no weights for {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            "fine-tune it for your classes first: scripts/train_demo.py --images DIR",
        )
    if checkpoint.image_size is not None:
        resolution.interpolate(model, checkpoint.image_size)
    return model


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Eager attention with the scale on the query, [batch, heads, tokens, head size] each.

    Scaling the query before the product, not the product after it, keeps FP16 scores small, and is
    the one form that every TensorRT fuses rightly (TensorRT issues 4328 and 4333). An image has no
    padding, so there is no mask, whose Where would break the fusion.
    """
    scores = (query * scaling) @ key.transpose(2, 3)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's and transformers' chatter off the terminal; our errors say what matters."""
    transformers = require("transformers")
    transformers.AttentionInterface.register(ATTENTION, _attention)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
