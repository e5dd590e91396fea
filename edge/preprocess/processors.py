"""Conversion of the configuration of transformers' image processors to a `Preprocess`.

An unsupported processor, key or value is an error that names it, and is never ignored: images that
are prepared differently from training cost accuracy that nobody notices. The reference is
transformers' PIL backend (`image_processing_backends.PilBackend`) and its subclasses.
"""

from __future__ import annotations

from typing import Any

from edge.preprocess.fields import InvalidField, integer, reading, triple
from edge.preprocess.resample import BICUBIC, BILINEAR
from edge.preprocess.spec import Preprocess, Resize

__all__ = ["from_processor"]

_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_SQUARE = {"height": 224, "width": 224}

# The defaults of each class of transformers 5, for keys that preprocessor_config.json omits.
# `default_to_square`: a size that is one number means a square, else the shortest edge.
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
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_PROCESSORS["DINOv3ViT"] = _BASE | {"stats": _IMAGENET}

# Keys that do not affect the pixels, or only repeat what the processor's class implies.
_HARMLESS = {
    "_name_or_path",
    "auto_map",  # third-party code, which is never run
    "num_channels",
    "image_seq_length",
    "transformers_version",
    "torch_dtype",
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
    "do_reduce_labels",  # for segmentation maps
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
_OWN = {  # keys that only one class reads; in others they are an error
    "ConvNext": {"crop_pct"},
    "MobileViT": {"do_flip_channel_order"},
}
# Keys that a class ignores: it never does these steps.
_IGNORED = {
    "ConvNext": {"do_pad", "pad_size"},
    "Beit": {"do_pad", "pad_size"},
    "MobileViT": {"do_pad", "pad_size", "do_normalize", "image_mean", "image_std"},
}


def from_processor(
    config: dict[str, Any],
    image_size: tuple[int, int] | None,
    usual: str | None = None,
    where: str = "preprocessor_config.json",
) -> Preprocess:
    """Read the configuration of a processor.

    image_size: (height, width) that the model takes; None if it takes any. usual: the processor of
    a configuration that names none, such as "ViT". where: the file of the configuration.

    Raises `CheckpointError` for an unsupported processor, key or value, and if the processor
    produces images of another size than the model takes.
    """
    with reading(where):
        return _from_processor(_kind(config, usual), config, image_size)


def _from_processor(
    kind: str, config: dict[str, Any], image_size: tuple[int, int] | None
) -> Preprocess:
    defaults = _PROCESSORS[kind]
    unknown = {
        key
        for key, value in config.items()
        if key not in _UNDERSTOOD | _HARMLESS | _OWN.get(kind, set())
        and value is not None
        and value is not False
    }
    if unknown:
        raise InvalidField(
            f"keys that vit-edge does not support: {', '.join(sorted(unknown))}",
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
        if value("crop_size") is None:
            raise InvalidField(
                "do_center_crop but no crop_size", "add crop_size, or set do_center_crop to false"
            )
        wanted = _size_dict(value("crop_size"), True)
        window = (integer(wanted["height"]), integer(wanted["width"]))
        if crop not in (None, window):
            raise ValueError(f"crop_size {window}, but the resize already crops to {crop}")
        crop = window
    pad = None
    if value("do_pad") and value("pad_size") is not None:  # without a size: to the largest image
        size = _size_dict(value("pad_size"), True)
        pad = (integer(size["height"]), integer(size["width"]))
        if crop is not None and pad != crop:
            raise ValueError(f"pad_size {pad}, which differs from the crop to {crop}")
        pad = None if crop is not None else pad
    if image_size is None:
        stretched = (resize.height, resize.width) if resize and resize.how == "stretch" else None
        image_size = pad or crop or stretched
        if image_size is None:
            raise ValueError("images of any size, but an engine takes a single size")
    mean, std = defaults["stats"]
    normalise = value("do_normalize")
    return Preprocess(
        height=image_size[0],
        width=image_size[1],
        resize=resize,
        resample=integer(value("resample")),
        crop=crop,
        scale=float(value("rescale_factor", 1 / 255)) if value("do_rescale", True) else None,
        mean=triple(value("image_mean", mean), "image_mean") if normalise else None,
        std=triple(value("image_std", std), "image_std") if normalise else None,
        pad=pad,
        bgr=bool(value("do_flip_channel_order", False)),
        opaque=bool(value("do_convert_rgb", False)),
    )


def _kind(config: dict[str, Any], usual: str | None) -> str:
    """The processor that a configuration names; `usual` for old ones that name none."""
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    supported = ", ".join(f"{kind}ImageProcessor" for kind in _PROCESSORS)
    if name is None and usual is not None:
        return usual
    if not isinstance(name, str):
        raise InvalidField("no image_processor_type", f"add one of: {supported}")
    kind = name
    for suffix in ("Pil", "Fast"):
        kind = kind.removesuffix(suffix)
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _PROCESSORS:
        raise InvalidField(
            f"the image processor {name}, which is not supported", f"supported: {supported}"
        )
    return kind


def _size_dict(size: Any, square: bool) -> dict[str, Any]:
    """A size (number, [height, width] or dict) as transformers' get_size_dict reads it."""
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
        return Resize("stretch", integer(size["height"]), integer(size["width"]))
    if keys in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}):
        edge = integer(size["shortest_edge"])
        longest = integer(size["longest_edge"]) if "longest_edge" in size else None
        return Resize("shortest_edge", edge, edge, longest)
    if keys == {"max_height", "max_width"}:
        return Resize("within", integer(size["max_height"]), integer(size["max_width"]))
    raise InvalidField(
        f"a size of {sorted(size)}, which vit-edge does not support",
        "use height and width, shortest_edge with or without longest_edge, or max_height and "
        "max_width",
    )


def _convnext(size: dict[str, Any], crop_pct: Any) -> tuple[Resize, tuple[int, int] | None]:
    """An edge below 384: resize to edge / crop_pct and crop; otherwise stretch."""
    edge = integer(size["shortest_edge"])
    if edge >= 384:
        return Resize("stretch", edge, edge), None
    larger = int(edge / crop_pct)
    return Resize("shortest_edge", larger, larger), (edge, edge)
