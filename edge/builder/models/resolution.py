"""Pictures of another size than a checkpoint was trained with.

A transformer knows its patches by position embeddings. They are interpolated once, while an engine
is built, as transformers does it on every call with `interpolate_pos_encoding=True`; the graph has
them as constants. BEiT fits its tables of relative positions to each picture by itself, and windows
(Swin, Swinv2) stay as large as they were: what is known of positions in them serves any picture.
"""

from __future__ import annotations

from typing import Any

from edge.errors import CheckpointError, require

__all__ = ["check_side", "interpolate"]


def check_side(name: str, side: int, step: int) -> None:
    """See that pictures of `side` x `side` pixels divide into patches of `step`.

    Raises `CheckpointError` with the nearest sizes that do.
    """
    if side % step:
        below = side // step * step
        good = " or ".join(str(size) for size in (below, below + step) if size)
        raise CheckpointError(
            f"{name} takes pictures whose sides are multiples of {step}, not {side}",
            f"use --image-size {good}",
        )


def interpolate(model: Any, side: int) -> None:
    """Give a transformers model, in place, the position embeddings for pictures of `side` pixels.

    Every part of it that has some (`interpolate_pos_encoding`) gets its own; a model without any,
    such as a ConvNeXt or most BEiTs, takes pictures of any size as it is.
    """
    torch = require("torch")
    for module in model.modules():
        if not hasattr(module, "interpolate_pos_encoding"):
            continue
        table = getattr(module, "position_embedding", None)  # CLIP's and SigLIP's
        known = module.position_embeddings if table is None else table.weight
        if known is None:  # a family where they are optional
            continue
        patch = module.patch_size
        if isinstance(patch, list) and len(set(patch)) == 1:  # transformers divides by a number
            module.patch_size = patch[0]
        with torch.no_grad():
            # Of its first argument it reads the number of tokens: with none it always interpolates.
            none = known.new_empty(1, 0, known.shape[-1])
            positions = module.interpolate_pos_encoding(none, side, side)
        if table is None:
            module.position_embeddings = torch.nn.Parameter(positions)
        else:
            module.position_embedding = torch.nn.Embedding.from_pretrained(positions[0])
            module.position_ids = torch.arange(positions.shape[1])[None]
        for part in (module, getattr(module, "patch_embeddings", module)):
            if not hasattr(part, "image_size"):
                continue
            part.image_size = side if isinstance(part.image_size, int) else (side, side)
