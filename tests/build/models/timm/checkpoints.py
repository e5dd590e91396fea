"""Checkpoints as timm uploads them to the Hub, tiny and with random weights."""

import json
from pathlib import Path

from edge.build.models.timm_library import library

LABELS = ["cat", "dog", "fox", "owl", "bee"]
TINY = {"img_size": 32, "depth": 2, "num_classes": 5}
SMALL = {**TINY, "embed_dim": 64, "num_heads": 4}
# What it is called here -> its architecture, and what makes it small. The first two are the plain
# ones, the others differ in what stands beside their blocks.
ARCHITECTURES = {
    "patch16": ("vit_base_patch16_224", SMALL),
    "patch32": ("vit_base_patch32_384", {**SMALL, "img_size": 64}),
    "registers, mean": ("vit_so150m2_patch16_reg1_gap_256", SMALL),
    "clip's norm": ("vit_base_patch16_clip_quickgelu_224", SMALL),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", TINY),
    "deit3": ("deit3_small_patch16_224", TINY),
    "hybrid": ("vit_tiny_r_s16_p8_224", {**TINY, "img_size": 64}),
    "beit": ("beit_base_patch16_224", SMALL),
    "eva02": ("eva02_tiny_patch14_224", {**TINY, "img_size": 28}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 56,
            "window_size": 7,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "embed_dim": 32,
            "num_classes": 5,
        },
    ),
    "convnext": (
        "convnext_atto",
        {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "num_classes": 5},
    ),
}


def save(folder: Path, name: str, **changes: object) -> Path:
    """One of `ARCHITECTURES`, with weights that make its classes differ.

    changes: of its config.json.
    """
    import torch

    timm = library()
    architecture, arguments = ARCHITECTURES[name]
    torch.manual_seed(1)
    model = timm.create_model(architecture, **arguments)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            spread = 0.2 if weight.ndim < 3 else 0.1
            weight.add_(spread * torch.randn_like(weight) * (0.2 if "norm" in key else 1))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if name == "convnext":  # it has no size of its own
        config["pretrained_cfg"]["input_size"] = [3, 64, 64]
    # As the Hub has them: only the newest timm repeats these, and TimmWrapper fails at that.
    config["model_args"] = {key: arguments[key] for key in arguments if key != "num_classes"}
    config = {**config, "label_names": LABELS, **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder
