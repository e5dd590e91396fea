"""The supported families of vision transformers, by the model_type of config.json; no torch.

A family describes what is known of a model before it is loaded: its tasks, and the operators that
its graph must have as single nodes for TensorRT.
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

    name     for people
    tasks    transformers class that saved the checkpoint -> tasks that can be built from it, the
             default first
    fused    operators that its graph must have as single nodes; see `fused_of`
    sized    images must have config.json's image_size; False: that is the size of pretraining,
             and the processor defines the size that the checkpoint is used with
    special  number of tokens before the patch tokens, the class token first; 0: there are none, or
             the last layer outputs a map. Registers and further class tokens are counted in
             config.json and come on top
    step     function of `vision_of` config.json: the number of pixels of which the sides of
             images must be multiples, for another size than it was trained with (1: the model
             itself checks more). Raises ValueError for invalid values in config.json
    sigmoid  for zero-shot: labels are independent, and prompts are padded to full length
    processor  default image processor where a checkpoint names none: the one of transformers for
             the model_type, or else that of the model of which it is the vision part or a relative
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


def _pixels(config: Mapping[str, Any], key: str, default: int) -> int:
    """A number of pixels, the largest if there are several. Raises ValueError."""
    size = config.get(key, default)
    sides = size if isinstance(size, list) else [size]
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{key} {size!r}")
    return int(max(sides))


def _patch(default: int) -> Callable[[Mapping[str, Any]], int]:
    """A `Family.step`: the longer side of a patch; `default` where config.json has none."""
    return lambda config: _pixels(config, "patch_size", default)


def _stages(config: Mapping[str, Any]) -> int:
    """A `Family.step`: pixels per token of the last stage; each but the first halves a side."""
    depths = config.get("depths", _DEPTHS)
    if not isinstance(depths, list) or not depths:
        raise ValueError(f"depths {depths!r}")
    return _pixels(config, "patch_size", 4) << len(depths) - 1


_DEPTHS = [2, 2, 6, 2]  # of a Swin whose config.json has none
# Values of hidden_act that are exported as a single node; the others become several nodes.
_GELU = ("gelu", "gelu_pytorch_tanh")
# No Gelu: DINOv2's giant has SiLU gates, MobileViT has SiLU, most CLIPs have x * sigmoid(1.702 x).
_ATTENTION = ("LayerNormalization", "Softmax")
_POINTWISE = ("LayerNormalization", "Gelu")


def _map(name: str, prefix: str, processor: str, fused: tuple[str, ...], step: int) -> Family:
    """A family whose layers output maps, for any image size.

    step: pixels per element of the last map.
    """
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
    "dinov3_vit": Family(
        "DINOv3",
        {"DINOv3ViTModel": (FEATURES,)},
        _ATTENTION,
        sized=False,
        step=_patch(16),
        processor="DINOv3ViT",
    ),
    "ijepa": Family("I-JEPA", _classifier("IJepa"), special=0, step=_patch(16)),
    "vit_msn": Family("ViTMSN", _classifier("ViTMSN"), step=_patch(16)),
    "pixio": Family(
        "Pixio", {"PixioModel": (FEATURES,)}, sized=False, step=_patch(16), processor="Bit"
    ),
    "dinov3_convnext": Family(
        "DINOv3 ConvNeXt",
        {"DINOv3ConvNextModel": (FEATURES,)},
        _POINTWISE,
        sized=False,
        step=lambda _: 32,
        processor="DINOv3ViT",
    ),
    "convnext": _map("ConvNeXt", "ConvNext", "ConvNext", _POINTWISE, step=32),
    "convnextv2": _map("ConvNeXt V2", "ConvNextV2", "ConvNext", _POINTWISE, step=32),
    "mobilevit": _map("MobileViT", "MobileViT", "MobileViT", _ATTENTION, step=64),
    # timm has many architectures: only their common operator is checked; timm checks the sizes.
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
    "metaclip_2": Family(
        "MetaCLIP 2",
        {
            "MetaClip2Model": (ZERO_SHOT, FEATURES),
            "MetaClip2ForImageClassification": (CLASSIFICATION,),
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

    Raises `CheckpointError` for an unsupported family or architecture.
    """
    architectures, model_type = config.get("architectures"), config.get("model_type")
    if "pretrained_cfg" in config and model_type in (None, TIMM):  # config.json written by timm
        model_type = TIMM
        kind = "ForImageClassification" if config.get("num_classes") else "Model"
        architectures = architectures or [f"TimmWrapper{kind}"]
    if not isinstance(architectures, list) or not architectures:
        raise CheckpointError(
            f"{name}: config.json names no architectures",
            'add the class that saved it, such as "architectures": ["ViTForImageClassification"]',
        )
    architecture = str(architectures[0])
    family = FAMILIES.get(str(model_type))
    if family is None:
        known = sorted({family.name for family in FAMILIES.values()})
        raise CheckpointError(
            f"{name} is a {architecture}, which vit-edge does not support",
            f"use one of these families: {', '.join(known)}",
        )
    if architecture not in family.tasks:
        raise CheckpointError(
            f"{name} is a {architecture}, which vit-edge does not support",
            f"supported for {family.name}: {', '.join(family.tasks)}",
        )
    return family, architecture


def vision_of(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json about the vision model: all of it if there is no text model.

    Raises `CheckpointError` when vision_config is not an object.
    """
    vision = config.get("vision_config_dict")  # of an early CLIP; transformers reads only this
    if vision is None:
        vision = config.get("vision_config", config)
    if not isinstance(vision, dict):
        raise CheckpointError(
            f"{name}: vision_config in config.json is not an object",
            "download the checkpoint again",
        )
    return vision


def fused_of(family: Family, vision: Mapping[str, Any]) -> tuple[str, ...]:
    """Operators that a graph must have as single nodes, with the activation of config.json."""
    if vision.get("hidden_act", "gelu") in _GELU:
        return family.fused
    return tuple(operator for operator in family.fused if operator != "Gelu")


def task_of(name: str, family: Family, architecture: str, requested: Task | None) -> Task:
    """The requested task, or the default. Raises `CheckpointError` for an unsupported task."""
    tasks = family.tasks[architecture]
    if requested is not None and requested not in tasks:
        raise CheckpointError(
            f"{name} is a {architecture}, which does not support {requested}",
            f"leave out --task, or choose from: {', '.join(tasks)}",
        )
    return requested or tasks[0]
