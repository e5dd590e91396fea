"""Support for image sizes other than the one that a checkpoint was trained with.

Position embeddings belong to a number of patches. They are interpolated once, in the build, as
transformers does on every call with `interpolate_pos_encoding=True`; in the graph they are
constants. BEiT adapts its tables of relative positions itself. Windows (Swin, Swinv2) keep their
size, so their positions fit any image.
"""

from __future__ import annotations

from typing import Any

from edge.errors import CheckpointError, require

__all__ = ["check_side", "interpolate"]


def check_side(name: str, side: int, step: int) -> None:
    """Check that images of `side` x `side` pixels divide into patches of `step` pixels.

    Raises `CheckpointError` with the nearest valid sizes.
    """
    if side % step:
        below = side // step * step
        valid = " or ".join(str(size) for size in (below, below + step) if size)
        raise CheckpointError(
            f"{name} takes images whose sides are multiples of {step}, not {side}",
            f"use --image-size {valid}",
        )


def interpolate(model: Any, side: int) -> None:
    """Interpolate the position embeddings of a transformers model for `side` x `side`, in place.

    All modules with `interpolate_pos_encoding` are changed. A model without such modules, such as a
    ConvNeXt or most BEiTs, takes images of any size unchanged.
    """
    torch = require("torch")
    for module in model.modules():
        if not hasattr(module, "interpolate_pos_encoding"):
            continue
        table = getattr(module, "position_embedding", None)  # CLIP's and SigLIP's
        trained = module.position_embeddings if table is None else table.weight
        if trained is None:  # optional in some families
            continue
        patch = module.patch_size
        if isinstance(patch, list) and len(set(patch)) == 1:  # transformers divides by a number
            module.patch_size = patch[0]
        with torch.no_grad():
            # It reads only the number of tokens of its first argument; with 0 it interpolates.
            empty = trained.new_empty(1, 0, trained.shape[-1])
            positions = module.interpolate_pos_encoding(empty, side, side)
        if table is None:
            module.position_embeddings = torch.nn.Parameter(positions)
        else:
            module.position_embedding = torch.nn.Embedding.from_pretrained(positions[0])
            module.position_ids = torch.arange(positions.shape[1])[None]
        for part in (module, getattr(module, "patch_embeddings", module)):
            if not hasattr(part, "image_size"):
                continue
            part.image_size = side if isinstance(part.image_size, int) else (side, side)
