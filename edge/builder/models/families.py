"""The families of vision transformers that are built, by the model_type of config.json; no torch.

What is known of a model before it is loaded: which tasks it has been made for, and what TensorRT
must find in one piece in its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.builder.graph import FUSED
from edge.engine.heads import CLASSIFICATION, FEATURES, ZERO_SHOT, Task
from edge.errors import CheckpointError

__all__ = ["FAMILIES", "TIMM", "Family", "family_of", "fused_of", "task_of", "vision_of"]

TIMM = "timm_wrapper"


@dataclass(frozen=True)
class Family:
    """Checkpoints of one model_type.

    name     as people call it
    tasks    class of transformers that saved the checkpoint -> what can be built of it, the usual
             task first
    fused    operators that its graph must have, each in one piece; see `fused_of`
    sized    pictures must be of config.json's image_size; else it is that of pretraining, and the
             processor says which size the checkpoint is used with
    special  tokens that stand before those of patches, the first of them the class's; 0: there are
             none, or the last layer gives a map. Registers come on top, config.json counts them
    step     `vision_of` config.json -> what the sides of pictures are multiples of, when they are
             of another size than it was trained with (1: its model says more). Raises ValueError
             for a config.json of odd values
    sigmoid  of zero-shot: a label's probability is its own, and prompts are padded to full length
    processor  of pictures, where a checkpoint names none: that of transformers for the model_type,
             and for what it has none for, that of the model it is the pictures' side or a kin of
    """

    name: str
    tasks: Mapping[str, tuple[Task, ...]]
    fused: tuple[str, ...] = FUSED
    sized: bool = True
    special: int = 1
    sigmoid: bool = False
    step: Callable[[Mapping[str, Any]], int] = field(kw_only=True)
    processor: str = "ViT"


def _classifier(prefix: str) -> dict[str, tuple[Task, ...]]:
    return {
        f"{prefix}ForImageClassification": (CLASSIFICATION, FEATURES),
        f"{prefix}Model": (FEATURES,),
    }


def _whole(config: Mapping[str, Any], key: str, usual: int) -> int:
    """A number of pixels, the largest where there are several. Raises ValueError."""
    size = config.get(key, usual)
    sides = size if isinstance(size, list) else [size]
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{key} {size!r}")
    return int(max(sides))


def _patch(usual: int) -> Callable[[Mapping[str, Any]], int]:
    """The side of a patch, or of the longer one of its two; `usual` where config.json has none."""
    return lambda config: _whole(config, "patch_size", usual)


def _stages(config: Mapping[str, Any]) -> int:
    """The pixels of a side that become one token: each stage but the first halves a side."""
    depths = config.get("depths", _DEPTHS)
    if not isinstance(depths, list) or not depths:
        raise ValueError(f"depths {depths!r}")
    return _whole(config, "patch_size", 4) << len(depths) - 1


_DEPTHS = [2, 2, 6, 2]  # of a Swin whose config.json has none
# Values of hidden_act that are one node in a graph; the others are made of several.
_GELU = ("gelu", "gelu_pytorch_tanh")
# DINOv2's giant has SiLU gates, as MobileViT has SiLU, and most CLIPs x * sigmoid(1.702 x).
_ATTENTION = ("LayerNormalization", "Softmax")
_POINTWISE = ("LayerNormalization", "Gelu")


def _map(name: str, prefix: str, processor: str, fused: tuple[str, ...], step: int) -> Family:
    """One whose layers make maps, whatever the size of pictures; step: pixels of its last one's."""
    return Family(
        name,
        _classifier(prefix),
        fused,
        sized=False,
        special=0,
        step=lambda _: step,
        processor=processor,
    )


FAMILIES: dict[str, Family] = {
    "vit": Family("ViT", _classifier("ViT"), step=_patch(16)),
    "deit": Family(
        "DeiT",
        {
            **_classifier("DeiT"),
            "DeiTForImageClassificationWithTeacher": (CLASSIFICATION, FEATURES),
        },
        special=2,
        step=_patch(16),
        processor="DeiT",
    ),
    "beit": Family("BEiT", _classifier("Beit"), step=_patch(16), processor="Beit"),
    "swin": Family("Swin", _classifier("Swin"), special=0, step=_stages),
    "swinv2": Family("Swinv2", _classifier("Swinv2"), special=0, step=_stages),
    "dinov2": Family(
        "DINOv2",
        _classifier("Dinov2"),
        _ATTENTION,
        sized=False,
        step=_patch(14),
        processor="Bit",
    ),
    "dinov2_with_registers": Family(
        "DINOv2 with registers",
        _classifier("Dinov2WithRegisters"),
        _ATTENTION,
        sized=False,
        step=_patch(14),
        processor="Bit",
    ),
    "convnext": _map("ConvNeXt", "ConvNext", "ConvNext", _POINTWISE, step=32),
    "convnextv2": _map("ConvNeXt V2", "ConvNextV2", "ConvNext", _POINTWISE, step=32),
    "mobilevit": _map("MobileViT", "MobileViT", "MobileViT", _ATTENTION, step=64),
    # Of many architectures: what they have in common is checked, their sizes by timm itself.
    TIMM: Family("timm", _classifier("TimmWrapper"), ("LayerNormalization",), step=lambda _: 1),
    "vit_mae": Family(
        "ViTMAE",
        {"ViTMAEForPreTraining": (FEATURES,), "ViTMAEModel": (FEATURES,)},
        step=_patch(16),
    ),
    "clip": Family(
        "CLIP",
        {
            "CLIPModel": (ZERO_SHOT, FEATURES),
            "CLIPForImageClassification": (CLASSIFICATION, FEATURES),
        },
        _ATTENTION,
        step=_patch(32),
        processor="CLIP",
    ),
    "clip_vision_model": Family(
        "CLIP",
        {"CLIPVisionModel": (FEATURES,), "CLIPVisionModelWithProjection": (FEATURES,)},
        _ATTENTION,
        step=_patch(32),
        processor="CLIP",
    ),
    "siglip": Family(
        "SigLIP",
        {
            "SiglipModel": (ZERO_SHOT, FEATURES),
            "SiglipForImageClassification": (CLASSIFICATION, FEATURES),
        },
        special=0,
        sigmoid=True,
        step=_patch(16),
        processor="Siglip",
    ),
    "siglip_vision_model": Family(
        "SigLIP",
        {"SiglipVisionModel": (FEATURES,)},
        special=0,
        step=_patch(16),
        processor="Siglip",
    ),
}


def family_of(name: str, config: Mapping[str, Any]) -> tuple[Family, str]:
    """A checkpoint's family, and the architecture that config.json names.

    Raises `CheckpointError` for what is none of ours.
    """
    architectures, model_type = config.get("architectures"), config.get("model_type")
    if "pretrained_cfg" in config and model_type in (None, TIMM):  # as timm itself writes it
        model_type = TIMM
        usual = "ForImageClassification" if config.get("num_classes") else "Model"
        architectures = architectures or [f"TimmWrapper{usual}"]
    if not isinstance(architectures, list) or not architectures:
        raise CheckpointError(
            f"{name}: config.json names no architectures",
            'write the class that saved it: "architectures": ["ViTForImageClassification"]',
        )
    architecture = str(architectures[0])
    family = FAMILIES.get(str(model_type))
    if family is None:
        known = sorted({family.name for family in FAMILIES.values()})
        raise CheckpointError(
            f"{name} is a {architecture}, which is no vision transformer that vit-edge builds",
            f"use one of these families: {', '.join(known)}",
        )
    if architecture not in family.tasks:
        raise CheckpointError(
            f"{name} is a {architecture}, which vit-edge does not build",
            f"of {family.name} it builds: {', '.join(family.tasks)}",
        )
    return family, architecture


def vision_of(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of the side of pictures, of two sides or of its only one.

    Raises `CheckpointError`.
    """
    vision = config.get("vision_config_dict")  # of an early CLIP; transformers takes it alone
    if vision is None:
        vision = config.get("vision_config", config)
    if not isinstance(vision, dict):
        raise CheckpointError(
            f"{name}: vision_config in config.json is no object", "download the checkpoint again"
        )
    return vision


def fused_of(family: Family, vision: Mapping[str, Any]) -> tuple[str, ...]:
    """What its graph must have in one piece, with the activation that config.json asks for."""
    if vision.get("hidden_act", "gelu") in _GELU:
        return family.fused
    return tuple(operator for operator in family.fused if operator != "Gelu")


def task_of(name: str, family: Family, architecture: str, asked: Task | None) -> Task:
    """The task that is asked for, or the usual one. Raises `CheckpointError` for another's."""
    able = family.tasks[architecture]
    if asked is not None and asked not in able:
        raise CheckpointError(
            f"{name} is a {architecture}, which is not for {asked}",
            f"leave out --task, or choose of: {', '.join(able)}",
        )
    return asked or able[0]
