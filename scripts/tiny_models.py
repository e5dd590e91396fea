"""Checkpoints of every family with random weights, as small as the architecture allows or of the
published size: for the tests, and for the table of docs/models.md.

What transformers leaves at zero or one in a fresh model (tables of relative positions, layer
scales, running statistics) is made random too, so that a graph which forgets it is found out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["MODELS", "Model", "save"]


@dataclass(frozen=True)
class Model:
    """One architecture: the class of transformers, what makes it tiny, and a published size.

    processor   class of its image processor, without "ImageProcessorPil"
    published   whose size `full` is; none: the config's own defaults
    tiny, full  of the config
    prepared    (tiny, full) of the processor, what differs from its defaults
    """

    architecture: str
    processor: str
    published: str
    tiny: Mapping[str, Any]
    full: Mapping[str, Any] = field(default_factory=dict)
    prepared: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})

    @property
    def config(self) -> str:
        """The class of its config."""
        return self.architecture.partition("For")[0].removesuffix("Model") + "Config"


def _square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


def _centre(edge: int, crop: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": edge}, "crop_size": {"height": crop, "width": crop}}


_ENCODER = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_MLP = {"intermediate_size": 128}
_RELATIVE = {"use_relative_position_bias": True}
# Two windows by two in the first stage, of which one block in two is shifted; one in the second.
_WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_DINO = {**_ENCODER, "image_size": 56, "mlp_ratio": 2}  # pictures are 32: the table is resized
_PUBLISHED_DINO = {"image_size": 518, "patch_size": 14}
_STAGES = {"image_size": 32, "hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}
_NECK = {"neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "hidden_sizes": [32, 32, 48]}

# By model_type, and what sets one architecture apart from others of the same.
MODELS: dict[str, Model] = {
    "vit": Model(
        "ViTForImageClassification",
        "ViT",
        "vit-base-patch16-224",
        {**_ENCODER, **_MLP},
        {},
        (_square(32), {}),
    ),
    "deit": Model(
        "DeiTForImageClassification",
        "DeiT",
        "deit-base-patch16-224",
        {**_ENCODER, **_MLP},
        {},
        ({**_square(36), "crop_size": _square(32)["size"]}, {}),
    ),
    "deit distilled": Model(
        "DeiTForImageClassificationWithTeacher",
        "DeiT",
        "deit-base-distilled-patch16-224",
        {**_ENCODER, **_MLP},
        {},
        ({**_square(36), "crop_size": _square(32)["size"]}, {}),
    ),
    "beit": Model(
        "BeitForImageClassification",
        "Beit",
        "beit-base-patch16-224",
        {**_ENCODER, **_MLP, **_RELATIVE},
        _RELATIVE,
        (_square(32), {}),
    ),
    "swin": Model(
        "SwinForImageClassification",
        "ViT",
        "swin-tiny-patch4-window7-224",
        _WINDOWS,
        {},
        (_square(32), {}),
    ),
    "swinv2": Model(
        "Swinv2ForImageClassification",
        "ViT",
        "swinv2-tiny-patch4-window8-256",
        _WINDOWS,
        {"image_size": 256, "window_size": 8},
        (_square(32), _square(256)),
    ),
    "dinov2": Model(
        "Dinov2ForImageClassification",
        "Bit",
        "dinov2-base-imagenet1k-1-layer",
        _DINO,
        _PUBLISHED_DINO,
        (_centre(36, 32), _centre(256, 224)),
    ),
    "dinov2_with_registers": Model(
        "Dinov2WithRegistersForImageClassification",
        "Bit",
        "dinov2-with-registers-base-imagenet1k-1-layer",
        _DINO,
        _PUBLISHED_DINO,
        (_centre(36, 32), _centre(256, 224)),
    ),
    "convnext": Model(
        "ConvNextForImageClassification",
        "ConvNext",
        "convnext-tiny-224",
        _STAGES,
        {},
        ({"size": {"shortest_edge": 32}}, {"size": {"shortest_edge": 224}}),
    ),
    "convnextv2": Model(
        "ConvNextV2ForImageClassification",
        "ConvNext",
        "convnextv2-tiny-1k-224",
        _STAGES,
        {},
        ({"size": {"shortest_edge": 32}}, {"size": {"shortest_edge": 224}}),
    ),
    "mobilevit": Model(
        "MobileViTForImageClassification",
        "MobileViT",
        "mobilevit-small",
        {"image_size": 128, **_NECK},
        {},
        (_centre(144, 128), _centre(288, 256)),
    ),
}


def save(
    name: str, folder: Path, labels: tuple[str, ...], full: bool = False, **changes: Any
) -> Path:
    """Write the checkpoint and the processor of a model of `MODELS`; changes: of its config."""
    import torch
    import transformers

    model = MODELS[name]
    named = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    settings = {**(model.full if full else model.tiny), **named, **changes}
    config = getattr(transformers, model.config)(**settings)
    torch.manual_seed(0)
    module = getattr(transformers, model.architecture)(config)
    _randomise(module)
    module.save_pretrained(folder)
    processor = getattr(transformers, f"{model.processor}ImageProcessorPil")
    processor(**model.prepared[full]).save_pretrained(folder)
    return folder


def _randomise(module: Any) -> None:
    """Weights that keep signals their size; all else of a size that is seen in the output."""
    import torch

    def normal(tensor: Any, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn_like(tensor))

    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            last = name.rpartition(".")[2]
            if last == "running_var":
                tensor.uniform_(0.5, 1.5)
            elif last == "logit_scale":
                tensor.uniform_(1, 3)
            elif not tensor.is_floating_point() or last == "relative_coords_table":
                continue
            elif "lambda" in last or "layer_scale" in last:
                tensor.uniform_(0.3, 0.6)
            elif last == "weight" and tensor.ndim > 1:
                normal(tensor, 0, 1.3 / math.sqrt(tensor[0].numel()))
            elif last == "weight":
                normal(tensor, 1, 0.1)
            else:
                normal(tensor, 0, 0.1 if tensor.ndim == 1 else 0.5)
