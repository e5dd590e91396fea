"""Checkpoints of every family with random weights, for the tests and the table of docs/models.md.

They are as small as the architecture allows, or of the published size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.models import tiny_timm, tiny_tokenizers
from scripts.models.tiny_weights import randomise

__all__ = ["MODELS", "Model", "save"]


@dataclass(frozen=True)
class Model:
    """One architecture: its class in transformers, its tiny and its published configuration.

    processor   class of its image processor, without "ImageProcessorPil"; timm has none
    published   checkpoint whose size `full` has; empty: the config's defaults
    tiny, full  arguments of the config
    prepared    (tiny, full) arguments of the processor that differ from its defaults
    tokenizer   key of `tiny_tokenizers.SAVERS`
    """

    architecture: str
    processor: str
    published: str
    tiny: Mapping[str, Any]
    full: Mapping[str, Any] = field(default_factory=dict)
    prepared: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
    tokenizer: str | None = None

    @property
    def config(self) -> str:
        """The name of its config class."""
        return re.split("For|Model", self.architecture)[0] + "Config"


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
# 2x2 windows in the first stage, where every second block is shifted; one in the second stage.
_WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_DINO = {
    **_ENCODER,
    "image_size": 56,
    "mlp_ratio": 2,
}  # images are 32: positions are resized
_PUBLISHED_DINO = {"image_size": 518, "patch_size": 14}
_STAGES = {"image_size": 32, "hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}
_DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}
_READER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SEER = {**_ENCODER, **_MLP}
_MARKS = tiny_tokenizers.CLIP_WORDS - 1
_CLIP_MARKS = {"bos_token_id": _MARKS - 1, "eos_token_id": _MARKS, "pad_token_id": _MARKS}
_SIGLIP_MARKS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 1}
_SHARED = {"projection_dim": 48}
_SIGLIP = {
    "text_config": {**_READER, **_SIGLIP_MARKS, "vocab_size": 64, "projection_size": 64},
    "vision_config": _SEER,
}
_NECK = {"neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "hidden_sizes": [32, 32, 48]}

# The key is the model_type, and a word if there are several architectures of it.
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
    "dinov3_vit": Model(
        "DINOv3ViTModel",
        "DINOv3ViT",
        "dinov3-vits16-pretrain-lvd1689m",
        {**_SEER, "image_size": 64, "num_register_tokens": 4},
        {"num_register_tokens": 4},
        (_square(32), {}),
    ),
    "ijepa": Model(
        "IJepaForImageClassification", "ViT", "ijepa_vith14_1k", _SEER, {}, (_square(32), {})
    ),
    "vit_msn": Model(
        "ViTMSNForImageClassification", "ViT", "vit-msn-base", _SEER, {}, (_square(32), {})
    ),
    "pixio": Model(
        "PixioModel", "Bit", "pixio-vitb16", {**_ENCODER, "mlp_ratio": 2}, {}, (_centre(36, 32), {})
    ),
    "dinov3_convnext": Model(
        "DINOv3ConvNextModel",
        "DINOv3ViT",
        "dinov3-convnext-tiny-pretrain-lvd1689m",
        {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "image_size": 32},
        {},
        (_square(32), {}),
    ),
    "metaclip_2 classifier": Model(
        "MetaClip2ForImageClassification",
        "CLIP",
        "metaclip-2-worldwide-b32, fine-tuned",
        {"vision_config": _SEER},
        {},
        (_centre(32, 32), {}),
    ),
    "metaclip_2": Model(
        "MetaClip2Model",
        "CLIP",
        "metaclip-2-worldwide-b32",
        {
            "text_config": {
                **_READER,
                **_CLIP_MARKS,
                **_SHARED,
                "vocab_size": tiny_tokenizers.CLIP_WORDS,
            },
            "vision_config": {**_SEER, **_SHARED},
            **_SHARED,
        },
        {},
        (_centre(32, 32), {}),
        "clip",
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
    "vit backbone": Model(
        "ViTModel", "ViT", "vit-base-patch16-224-in21k", _SEER, {}, (_square(32), {})
    ),
    "deit backbone": Model(
        "DeiTModel",
        "DeiT",
        "deit-base-patch16-224",
        _SEER,
        {},
        ({**_square(36), "crop_size": _square(32)["size"]}, {}),
    ),
    "vit_mae": Model(
        "ViTMAEForPreTraining",
        "ViT",
        "vit-mae-base",
        {**_SEER, **_DECODER},
        {},
        (_square(32), {}),
    ),
    "clip": Model(
        "CLIPModel",
        "CLIP",
        "clip-vit-base-patch32",
        {
            "text_config": {
                **_READER,
                **_CLIP_MARKS,
                **_SHARED,
                "vocab_size": tiny_tokenizers.CLIP_WORDS,
            },
            "vision_config": {**_SEER, **_SHARED},
            **_SHARED,
        },
        {"text_config": _CLIP_MARKS},
        (_centre(32, 32), {}),
        "clip",
    ),
    "clip_vision_model": Model(
        "CLIPVisionModelWithProjection",
        "CLIP",
        "clip-vit-base-patch32, vision",
        {**_SEER, **_SHARED},
        {},
        (_centre(32, 32), {}),
    ),
    "clip classifier": Model(
        "CLIPForImageClassification",
        "CLIP",
        "clip-vit-base-patch32, fine-tuned",
        {"vision_config": _SEER},
        {},
        (_centre(32, 32), {}),
    ),
    "siglip": Model(
        "SiglipModel",
        "Siglip",
        "siglip-base-patch16-224",
        _SIGLIP,
        {"text_config": _SIGLIP_MARKS},
        (_square(32), {}),
        "siglip",
    ),
    # Checkpoints of SigLIP 2 for one image size are SigLIPs with the tokenizer of Gemma.
    "siglip second": Model(
        "SiglipModel",
        "Siglip",
        "siglip2-base-patch16-224",
        _SIGLIP,
        {"text_config": {**_SIGLIP_MARKS, "vocab_size": 256_000}},
        (_square(32), {}),
        "siglip 2",
    ),
    "siglip classifier": Model(
        "SiglipForImageClassification",
        "Siglip",
        "siglip-base-patch16-224, fine-tuned",
        {"vision_config": _SEER},
        {},
        (_square(32), {}),
    ),
    "siglip_vision_model": Model(
        "SiglipVisionModel",
        "Siglip",
        "siglip-base-patch16-224, vision",
        _SEER,
        {},
        (_square(32), {}),
    ),
    **{
        f"timm_wrapper {kind}": Model(
            "TimmWrapperForImageClassification", "", f"timm/{architecture}", tiny
        )
        for kind, (architecture, tiny) in tiny_timm.ARCHITECTURES.items()
        if kind in ("patch16", "patch32", "hybrid")
    },
}


def save(
    name: str,
    folder: Path,
    labels: Sequence[str] = (),
    full: bool = False,
    tokenizer: str | None = None,
    **changes: Any,
) -> Path:
    """Write the checkpoint, the processor and the tokenizer of a model of `MODELS`.

    labels: of a classifier. tokenizer: in place of the model's usual one. changes: of its config.
    """
    import torch
    import transformers

    model = MODELS[name]
    if name.startswith("timm_wrapper"):
        kind = name.removeprefix("timm_wrapper ")
        return tiny_timm.save(kind, folder, labels, full, **changes)
    settings = {**(model.full if full else model.tiny), **changes}
    if "Classification" in model.architecture:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: at for at, label in enumerate(labels)}
    config = getattr(transformers, model.config)(**settings)
    torch.manual_seed(0)
    module = getattr(transformers, model.architecture)(config)
    randomise(module)
    module.save_pretrained(folder)
    if model.processor == "DINOv3ViT":  # has no PIL form, and this environment no torchvision
        kind = {"image_processor_type": "DINOv3ViTImageProcessorFast", **model.prepared[full]}
        (folder / "preprocessor_config.json").write_text(json.dumps(kind))
    else:
        processor = getattr(transformers, f"{model.processor}ImageProcessorPil")
        processor(**model.prepared[full]).save_pretrained(folder)
    if model.tokenizer is not None:
        tiny_tokenizers.SAVERS[tokenizer or model.tokenizer](folder)
    return folder
