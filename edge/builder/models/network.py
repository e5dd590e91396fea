"""The torch module of a checkpoint that is exported: images in, logits or an embedding out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.builder.models import attention, features, resolution, texts, timm_models
from edge.builder.models.checkpoint import Checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.builder.models.weights import check_missing, check_shapes, not_loaded
from edge.engine.heads import CLASSIFICATION, ZERO_SHOT
from edge.errors import CheckpointError, reason, require

__all__ = ["for_export", "load", "quiet"]

ATTENTION = "edge_vit"


def load(checkpoint: Checkpoint) -> Any:
    """The checkpoint as transformers (or timm) runs it; every weight comes from its files.

    A torch module: pixel_values float32 [N, 3, H, W] -> float32 [N, outputs], logits or embeddings
    as `checkpoint.head` defines. Raises `CheckpointError` for weights that do not match the config.
    """
    torch = require("torch")

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, model: Any, forward: Any, rewrite: Any = _rewrite) -> None:
            super().__init__()
            self.model, self._forward, self.rewrite = model, forward, rewrite

        def forward(self, pixel_values: Any) -> Any:
            return self._forward(pixel_values)

    if checkpoint.family is FAMILIES[TIMM]:
        model = timm_models.load(checkpoint)
        output = timm_models.output(checkpoint, model)
        return Network(model, output, timm_models.for_export).eval()
    transformers = require("transformers")
    if checkpoint.head.task == CLASSIFICATION:
        model = _pretrained(transformers.AutoModelForImageClassification, checkpoint)
        return Network(model, lambda images: model(pixel_values=images).logits).eval()
    model = _backbone(checkpoint)
    encode = getattr(model, "get_image_features", model)  # the image encoder of a CLIP or SigLIP
    if checkpoint.head.task == ZERO_SHOT:
        model.similarity = texts.similarity(checkpoint, model)
        return Network(model, lambda images: model.similarity(encode(pixel_values=images))).eval()
    if hasattr(model, "get_text_features"):
        model.text_model = model.text_projection = None  # not needed; frees its memory
    pooled = features.pooled(checkpoint, model)
    return Network(model, lambda images: pooled(encode(pixel_values=images))).eval()


def for_export(network: Any, example: Any) -> None:
    """Change the attention of a network of `load` to the form that TensorRT fuses.

    example: a batch of images, torch float32 [N, 3, H, W], of the size that will be traced.
    """
    network.rewrite(network.model)
    with require("torch").no_grad():
        network(example)


def _rewrite(model: Any) -> None:
    """Change the attention of a transformers model to the form that TensorRT fuses."""
    attention.rewrite(model)
    model.set_attn_implementation(ATTENTION)


def _backbone(checkpoint: Checkpoint) -> Any:
    """The model without a classification head."""
    transformers = require("transformers")
    if CLASSIFICATION in checkpoint.family.tasks[checkpoint.architecture]:
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder)
        # A CLIP that was fine-tuned as a classifier has only a vision model.
        vision = getattr(config, "vision_config", config)
        return _pretrained(transformers.AutoModel, checkpoint, config=vision)
    if checkpoint.family.name == "ViTMAE":
        # Its own class masks most of an image and shuffles the rest; the trained network is a ViT.
        config = transformers.ViTConfig.from_pretrained(checkpoint.folder)
        return _pretrained(transformers.ViTModel, checkpoint, config=config)
    return _pretrained(getattr(transformers, checkpoint.architecture), checkpoint)


def _pretrained(auto: Any, checkpoint: Checkpoint, **more: Any) -> Any:
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
            ignore_mismatched_sizes=True,  # `check_shapes` reports them in our own words
            **more,
        )
    except Exception as error:  # invalid values in a config can raise anything in transformers
        raise not_loaded(checkpoint, error) from error
    wrong = {name: (saved, built) for name, saved, built in info["mismatched_keys"]}
    check_shapes(checkpoint, wrong)
    check_missing(checkpoint, info["missing_keys"], info["unexpected_keys"])
    if checkpoint.image_size is not None:
        _interpolate(checkpoint, model, checkpoint.image_size)
    return model


def _interpolate(checkpoint: Checkpoint, model: Any, side: int) -> None:
    """Adapt a transformers model to images of `side` x `side`. Raises `CheckpointError`."""
    try:
        resolution.interpolate(model, side)
    except Exception as error:  # for example patches that are not square
        raise CheckpointError(
            f"{checkpoint.name} cannot be built for images of {side}x{side} ({reason(error)})",
            "leave out --image-size",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages and warnings of torch and transformers; our errors report problems.

    Also registers `attention.interface` with transformers as `ATTENTION`.
    """
    transformers = require("transformers")
    transformers.AttentionInterface.register(ATTENTION, attention.interface)
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
