"""The families of vision transformers that are built, by the model_type of config.json; no torch.

What is known of a model before it is loaded: which tasks it has been made for, and what TensorRT
must find in one piece in its graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.build.graph import FUSED
from edge.errors import CheckpointError
from edge.heads import CLASSIFICATION, FEATURES, ZERO_SHOT, Task

__all__ = ["FAMILIES", "Family", "family_of", "task_of"]


@dataclass(frozen=True)
class Family:
    """Checkpoints of one model_type.

    name     as people call it
    tasks    class of transformers that saved the checkpoint -> what can be built of it, the usual
             task first
    fused    operators that its graph must have, each in one piece
    sized    pictures must be of config.json's image_size; else it is that of pretraining, and the
             processor says which size the checkpoint is used with
    special  tokens that stand before those of patches, the first of them the class's; 0: there are
             none, or the last layer gives a map. Registers come on top, config.json counts them
    sigmoid  of zero-shot: a label's probability is its own, and prompts are padded to full length
    """

    name: str
    tasks: Mapping[str, tuple[Task, ...]]
    fused: tuple[str, ...] = FUSED
    sized: bool = True
    special: int = 1
    sigmoid: bool = False


def _classifier(prefix: str) -> dict[str, tuple[Task, ...]]:
    return {
        f"{prefix}ForImageClassification": (CLASSIFICATION, FEATURES),
        f"{prefix}Model": (FEATURES,),
    }


# DINOv2's giant has SiLU gates, as MobileViT has SiLU, and most CLIPs x * sigmoid(1.702 x).
_ATTENTION = ("LayerNormalization", "Softmax")
_POINTWISE = ("LayerNormalization", "Gelu")

FAMILIES: dict[str, Family] = {
    "vit": Family("ViT", _classifier("ViT")),
    "deit": Family(
        "DeiT",
        {
            **_classifier("DeiT"),
            "DeiTForImageClassificationWithTeacher": (CLASSIFICATION, FEATURES),
        },
        special=2,
    ),
    "beit": Family("BEiT", _classifier("Beit")),
    "swin": Family("Swin", _classifier("Swin"), special=0),
    "swinv2": Family("Swinv2", _classifier("Swinv2"), special=0),
    "dinov2": Family("DINOv2", _classifier("Dinov2"), _ATTENTION, sized=False),
    "dinov2_with_registers": Family(
        "DINOv2 with registers", _classifier("Dinov2WithRegisters"), _ATTENTION, sized=False
    ),
    "convnext": Family("ConvNeXt", _classifier("ConvNext"), _POINTWISE, sized=False, special=0),
    "convnextv2": Family(
        "ConvNeXt V2", _classifier("ConvNextV2"), _POINTWISE, sized=False, special=0
    ),
    "mobilevit": Family("MobileViT", _classifier("MobileViT"), _ATTENTION, sized=False, special=0),
    "vit_mae": Family("ViTMAE", {"ViTMAEForPreTraining": (FEATURES,), "ViTMAEModel": (FEATURES,)}),
    "clip": Family("CLIP", {"CLIPModel": (ZERO_SHOT, FEATURES)}, _ATTENTION),
    "clip_vision_model": Family(
        "CLIP",
        {"CLIPVisionModel": (FEATURES,), "CLIPVisionModelWithProjection": (FEATURES,)},
        _ATTENTION,
    ),
    "siglip": Family("SigLIP", {"SiglipModel": (ZERO_SHOT, FEATURES)}, special=0, sigmoid=True),
    "siglip_vision_model": Family("SigLIP", {"SiglipVisionModel": (FEATURES,)}, special=0),
}


def family_of(name: str, config: Mapping[str, Any]) -> tuple[Family, str]:
    """A checkpoint's family, and the architecture that config.json names.

    Raises `CheckpointError` for what is none of ours.
    """
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else "none"
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or architecture not in family.tasks:
        known = sorted(each for family in FAMILIES.values() for each in family.tasks)
        raise CheckpointError(
            f"{name} is a {architecture}, which is not supported", f"supported: {', '.join(known)}"
        )
    return family, str(architecture)


def task_of(name: str, family: Family, architecture: str, asked: Task | None) -> Task:
    """The task that is asked for, or the usual one. Raises `CheckpointError` for another's."""
    able = family.tasks[architecture]
    if asked is not None and asked not in able:
        raise CheckpointError(
            f"{name} is a {architecture}, which is not for {asked}",
            f"leave out --task, or choose of: {', '.join(able)}",
        )
    return asked or able[0]
