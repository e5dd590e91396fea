"""What transformers' processors and timm's configurations say, as a `Preprocess`.

A processor, key or value that is not understood is refused by name rather than ignored, since a
picture that is prepared differently from training costs accuracy that nobody sees. The reference
is transformers' PIL backend (`image_processing_backends.PilBackend`) and the classes on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.errors import CheckpointError
from edge.preprocess.resample import BICUBIC, BILINEAR, LANCZOS, NEAREST
from edge.preprocess.spec import Preprocess, Resize

__all__ = ["from_processor", "from_timm"]

_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_SQUARE = {"height": 224, "width": 224}

# What each class of transformers 5 does where preprocessor_config.json is silent.
# `default_to_square` is what a size that is one number means.
_BASE: dict[str, Any] = {
    "resample": BILINEAR,
    "size": _SQUARE,
    "default_to_square": True,
    "do_center_crop": False,
    "do_normalize": True,
    "stats": _HALF,
}
_CENTRE = {"do_center_crop": True, "crop_size": _SQUARE}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": _BASE,
    "DeiT": _BASE | _CENTRE | {"resample": BICUBIC, "size": {"height": 256, "width": 256}},
    "Beit": _BASE | {"resample": BICUBIC, "crop_size": _SQUARE},
    "Bit": _BASE
    | _CENTRE
    | {
        "resample": BICUBIC,
        "size": {"shortest_edge": 224},
        "default_to_square": False,
        "do_convert_rgb": True,
        "stats": _CLIP,
    },
    "Siglip": _BASE | {"resample": BICUBIC, "default_to_square": False, "do_convert_rgb": True},
    "ConvNext": _BASE
    | {
        "resample": BICUBIC,
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "crop_pct": 224 / 256,
    },
    "MobileViT": _BASE
    | {
        "resample": BICUBIC,
        "size": {"shortest_edge": 224},
        "default_to_square": False,
        "do_center_crop": True,
        "crop_size": {"height": 256, "width": 256},
        "do_normalize": False,
        "do_flip_channel_order": True,
    },
}
_PROCESSORS["CLIP"] = _PROCESSORS["Bit"]

# Keys that say nothing about the pixels, or only repeat what the processor's class says.
_HARMLESS = {
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "model_input_names",
    "backend",
    "do_reduce_labels",  # of segmentation maps
    "reduce_labels",
}
_UNDERSTOOD = {
    "do_convert_rgb",
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
}
_OWN = {  # keys that only one class reads; elsewhere they are refused
    "ConvNext": {"crop_pct"},
    "MobileViT": {"do_flip_channel_order"},
}
# Steps that a class leaves out whatever its configuration says.
_IGNORED = {
    "ConvNext": {"do_pad", "pad_size"},
    "Beit": {"do_pad", "pad_size"},
    "MobileViT": {"do_pad", "pad_size", "do_normalize", "image_mean", "image_std"},
}


def from_processor(config: dict[str, Any], image_size: tuple[int, int]) -> Preprocess:
    """Read a `preprocessor_config.json`; image_size is the (height, width) the model takes.

    Raises `CheckpointError` for a processor, key or value that is not understood, and when
    the processor makes pictures of another size than the model takes.
    """
    with _reading("preprocessor_config.json"):
        return _from_processor(config, image_size)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Name the file in which something odd was found."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{where} has {reason}", "correct it, or download it again"
        ) from error


def _from_processor(config: dict[str, Any], image_size: tuple[int, int]) -> Preprocess:
    kind = _kind(config)
    defaults = _PROCESSORS[kind]
    unknown = {
        key
        for key, value in config.items()
        if key not in _UNDERSTOOD | _HARMLESS | _OWN.get(kind, set())
        and value is not None
        and value is not False
    }
    if unknown:
        raise CheckpointError(
            f"preprocessor_config.json has keys that vit-edge does not honour: "
            f"{', '.join(sorted(unknown))}",
            "remove them if they do not change the pixels, or set them to false",
        )

    def value(key: str, default: Any = None) -> Any:
        found = None if key in _IGNORED.get(kind, ()) else config.get(key)
        return defaults.get(key, default) if found is None else found

    resize = crop = None
    if value("do_resize", True):
        size = _size_dict(value("size"), value("default_to_square"))
        if kind == "ConvNext":
            resize, crop = _convnext(size, value("crop_pct"))
        else:
            resize = _resize(size)
    if value("do_center_crop"):
        wanted = _size_dict(value("crop_size", {}), True)
        window = (_whole(wanted["height"]), _whole(wanted["width"]))
        if crop not in (None, window):
            raise ValueError(f"crop_size {window} after a crop to {crop}")
        crop = window
    pad = None
    if value("do_pad") and value("pad_size") is not None:  # without a size: to the largest picture
        size = _size_dict(value("pad_size"), True)
        pad = (_whole(size["height"]), _whole(size["width"]))
        if crop is not None and pad != crop:
            raise ValueError(f"pad_size {pad} after a crop to {crop}")
        pad = None if crop is not None else pad
    mean, std = defaults["stats"]
    normalise = value("do_normalize")
    return Preprocess(
        height=image_size[0],
        width=image_size[1],
        resize=resize,
        resample=_whole(value("resample")),
        crop=crop,
        scale=float(value("rescale_factor", 1 / 255)) if value("do_rescale", True) else None,
        mean=_triple(value("image_mean", mean), "image_mean") if normalise else None,
        std=_triple(value("image_std", std), "image_std") if normalise else None,
        pad=pad,
        bgr=bool(value("do_flip_channel_order", False)),
        opaque=bool(value("do_convert_rgb", False)),
    )


def _kind(config: dict[str, Any]) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    supported = ", ".join(f"{kind}ImageProcessor" for kind in _PROCESSORS)
    if not isinstance(name, str):
        raise CheckpointError(
            "preprocessor_config.json names no image_processor_type", f"add one of: {supported}"
        )
    kind = name
    for suffix in ("Pil", "Fast"):
        kind = kind.removesuffix(suffix)
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _PROCESSORS:
        raise CheckpointError(
            f"the image processor {name} is not supported", f"supported: {supported}"
        )
    return kind


def _size_dict(size: Any, square: bool) -> dict[str, Any]:
    """A size as transformers' get_size_dict reads it: a number, [height, width] or a dict."""
    if isinstance(size, (int, float)):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    if not isinstance(size, dict):
        raise ValueError(f"a size of {size!r}")
    return {key: number for key, number in size.items() if number is not None}


def _resize(size: dict[str, Any]) -> Resize:
    keys = set(size)
    if keys == {"height", "width"}:
        return Resize("stretch", _whole(size["height"]), _whole(size["width"]))
    if keys in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}):
        edge = _whole(size["shortest_edge"])
        longest = _whole(size["longest_edge"]) if "longest_edge" in size else None
        return Resize("shortest_edge", edge, edge, longest)
    if keys == {"max_height", "max_width"}:
        return Resize("within", _whole(size["max_height"]), _whole(size["max_width"]))
    raise CheckpointError(
        f"preprocessor_config.json has a size of {sorted(size)}, which vit-edge does not honour",
        "use height and width, shortest_edge with or without longest_edge, or max_height and "
        "max_width",
    )


def _convnext(size: dict[str, Any], crop_pct: Any) -> tuple[Resize, tuple[int, int] | None]:
    """Below 384 the shorter side is resized to edge / crop_pct and cropped, else stretched."""
    edge = _whole(size["shortest_edge"])
    if edge >= 384:
        return Resize("stretch", edge, edge), None
    larger = int(edge / crop_pct)
    return Resize("shortest_edge", larger, larger), (edge, edge)


def _whole(value: Any) -> int:
    """A number of pixels, or the number of a filter. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{value!r} where a whole number belongs")
    return int(value)


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    if isinstance(value, (int, float)):
        value = [value] * 3
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} {value!r}")
    if len(value) != 3:
        raise CheckpointError(
            f"preprocessor_config.json has {len(value)} values in {key}",
            "vit-edge prepares RGB pictures: give three",
        )
    return (float(value[0]), float(value[1]), float(value[2]))


_TIMM_FILTERS = {"nearest": NEAREST, "bilinear": BILINEAR, "bicubic": BICUBIC, "lanczos": LANCZOS}


def from_timm(config: dict[str, Any]) -> Preprocess:
    """Read the `pretrained_cfg` of a timm model, as `timm.data.create_transform` does to evaluate.

    The keys are those that `timm.data.resolve_data_config` reads; all else is about the weights.
    Raises `CheckpointError` for a value that is not understood.
    """
    with _reading("pretrained_cfg in config.json"):
        return _from_timm(config)


def _from_timm(config: dict[str, Any]) -> Preprocess:
    channels, height, width = map(_whole, config.get("input_size") or (3, 224, 224))
    if channels != 3:
        raise ValueError(f"{channels} channels; vit-edge prepares RGB pictures")
    crop_pct = config.get("crop_pct") or 0.875
    larger = math.floor(height / crop_pct), math.floor(width / crop_pct)
    mode = config.get("crop_mode") or "center"
    mean = _triple(config.get("mean") or _IMAGENET[0], "mean")
    std = _triple(config.get("std") or _IMAGENET[1], "std")
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
    if interpolation not in _TIMM_FILTERS:
        raise ValueError(f"interpolation {interpolation!r}")
    return Preprocess(
        height=height,
        width=width,
        resize=resize,
        resample=_TIMM_FILTERS[interpolation],
        crop=(height, width),
        scale=1 / 255,
        mean=mean,
        std=std,
        crop_rounding="even",
        fill=fill,
    )
