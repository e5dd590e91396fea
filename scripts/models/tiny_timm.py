"""timm checkpoints with random weights, as timm uploads them to the Hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.builder.models.timm_library import library
from scripts.models.tiny_weights import randomise

__all__ = ["ARCHITECTURES", "save"]

TINY = {"img_size": 32, "depth": 2}
SMALL = {**TINY, "embed_dim": 64, "num_heads": 4}
# Name -> timm's architecture, and arguments that make it small. The first two are plain ViTs; the
# others differ in the layers around their blocks.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "patch16": ("vit_base_patch16_224", SMALL),
    "patch32": ("vit_base_patch32_224", {**SMALL, "img_size": 64}),
    "registers, mean": ("vit_so150m2_patch16_reg1_gap_256", SMALL),
    "clip's norm": ("vit_base_patch16_clip_quickgelu_224", SMALL),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", TINY),
    "deit3": ("deit3_small_patch16_224", TINY),
    "384": ("vit_base_patch16_384", {**SMALL, "depth": 1}),
    "large": ("vit_large_patch16_224", {**SMALL, "depth": 1}),
    "hybrid": ("vit_tiny_r_s16_p8_224", {**TINY, "img_size": 64}),
    # These have a complete ResNet before their blocks; no argument makes it smaller.
    "hybrid of 4 stages": ("vit_small_r26_s32_224", {**SMALL, "depth": 1, "img_size": 64}),
    "hybrid of 3 stages": ("vit_base_r50_s16_224", {**SMALL, "depth": 1}),
    "beit": ("beit_base_patch16_224", SMALL),
    "eva02": ("eva02_tiny_patch14_224", {**TINY, "img_size": 28}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "window_size": 7, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)}),
}


def save(
    kind: str, folder: Path, labels: Sequence[str], full: bool = False, **changes: Any
) -> Path:
    """Write one of `ARCHITECTURES`. changes: of its config.json; None removes a key."""
    import torch

    timm = library()
    architecture, small = ARCHITECTURES[kind]
    arguments = {} if full else small
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=len(labels), **arguments)
    randomise(model)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if kind == "convnext" and not full:  # its architecture has no image size
        config["pretrained_cfg"]["input_size"] = [3, 64, 64]
    # As on the Hub: only the newest timm repeats num_classes, and TimmWrapper fails on it.
    config = {**config, "model_args": arguments, "label_names": list(labels), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder
