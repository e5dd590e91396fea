"""Conversion of timm's `pretrained_cfg` to a `Preprocess`.

Unsupported values are errors that name the key. The reference is
`timm.data.create_transform(..., is_training=False)` on a PIL image.
"""

from __future__ import annotations

import math
from typing import Any

from edge.preprocess.fields import integer, reading, triple
from edge.preprocess.resample import BICUBIC, BILINEAR, LANCZOS, NEAREST
from edge.preprocess.spec import Preprocess, Resize

__all__ = ["from_timm"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_FILTERS = {"nearest": NEAREST, "bilinear": BILINEAR, "bicubic": BICUBIC, "lanczos": LANCZOS}


def from_timm(config: dict[str, Any]) -> Preprocess:
    """Read the `pretrained_cfg` of a timm model, as `timm.data.create_transform` does to evaluate.

    The keys are those that `timm.data.resolve_data_config` reads; all others are about the weights.
    Raises `CheckpointError` for an unsupported value.
    """
    with reading("pretrained_cfg in config.json"):
        return _from_timm(config)


def _from_timm(config: dict[str, Any]) -> Preprocess:
    channels, height, width = map(integer, config.get("input_size") or (3, 224, 224))
    if channels != 3:
        raise ValueError(f"{channels} channels; vit-edge prepares RGB images")
    crop_pct = config.get("crop_pct") or 0.875
    larger = math.floor(height / crop_pct), math.floor(width / crop_pct)
    mode = config.get("crop_mode") or "center"
    mean = triple(config.get("mean") or _MEAN, "mean")
    std = triple(config.get("std") or _STD, "std")
    fill = (0, 0, 0)
    if mode == "squash":
        resize = Resize("stretch", *larger)
    elif mode == "border":
        resize = Resize("contain", *larger)
        fill = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))
    elif mode == "center":
        resize = Resize("shortest_edge" if larger[0] == larger[1] else "cover", *larger)
    else:
        raise ValueError(f"crop_mode {mode!r}")
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in _FILTERS:
        raise ValueError(f"interpolation {interpolation!r}")
    return Preprocess(
        height=height,
        width=width,
        resize=resize,
        resample=_FILTERS[interpolation],
        crop=(height, width),
        scale=1 / 255,
        mean=mean,
        std=std,
        crop_rounding="even",
        fill=fill,
    )
