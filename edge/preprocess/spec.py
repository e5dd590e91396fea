"""`Preprocess`: what a checkpoint's image processor does to a picture, as one frozen dataclass.

It is read from `preprocessor_config.json` once, at build time, and travels in the passport and in
the ONNX metadata. A key that is not understood is refused by name rather than ignored, since a
picture that is prepared differently from training costs accuracy that nobody sees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge.errors import CheckpointError

__all__ = ["Preprocess"]

NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3  # the numbers of PIL.Image.Resampling

# Class defaults of transformers 5 for what preprocessor_config.json leaves out:
# (size, resample, crop_size, do_center_crop, default_to_square, mean and std)
_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 224, "width": 224}, "resample": BILINEAR, "stats": _HALF},
    "DeiT": {
        "size": {"height": 256, "width": 256},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "stats": _HALF,
    },
    "Bit": {
        "size": {"shortest_edge": 224},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "stats": _CLIP,
    },
}

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
    "default_to_square",
    "model_input_names",
    "backend",
}
_UNDERSTOOD = {
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
}


@dataclass(frozen=True)
class Preprocess:
    """RGB picture -> resize -> centre crop -> rescale -> normalise -> float32 [3, H, W]."""

    height: int  # of the tensor that the network sees
    width: int
    resize: tuple[int, int] | None  # (height, width) whatever the picture's shape
    shortest_edge: int | None  # resize the shorter side to this, keeping the shape
    resample: int  # PIL.Image.Resampling: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic
    crop: tuple[int, int] | None  # centre crop (height, width) after the resize, padded with 0
    scale: float | None  # multiply the 0..255 values by this
    mean: tuple[float, float, float] | None  # then subtract this per channel
    std: tuple[float, float, float] | None  # and divide by this

    @staticmethod
    def from_processor(config: dict[str, Any], image_size: tuple[int, int]) -> Preprocess:
        """Read a `preprocessor_config.json`; image_size is the (height, width) the model takes.

        Raises `CheckpointError` for a processor or key that is not understood, and when the
        processor makes pictures of another size than the model takes.
        """
        kind = _kind(config)
        defaults = _DEFAULTS[kind]
        unknown = {
            key
            for key, value in config.items()
            if key not in _UNDERSTOOD | _HARMLESS and value not in (None, False)
        }
        if unknown:
            raise CheckpointError(
                f"preprocessor_config.json has keys that vit-edge does not honour: "
                f"{', '.join(sorted(unknown))}",
                "remove them if they do not change the pixels, or set them to false",
            )

        def value(key: str, default: Any) -> Any:
            found = config.get(key)
            return default if found is None else found

        resize = shortest_edge = crop = None
        if value("do_resize", True):
            size = value("size", defaults["size"])
            if isinstance(size, int):
                size = (
                    {"height": size, "width": size}
                    if "height" in defaults["size"]
                    else {"shortest_edge": size}
                )
            if set(size) == {"height", "width"}:
                resize = (int(size["height"]), int(size["width"]))
            elif set(size) == {"shortest_edge"}:
                shortest_edge = int(size["shortest_edge"])
            else:
                raise CheckpointError(
                    f"preprocessor_config.json has a size of {sorted(size)}, which vit-edge does "
                    "not honour",
                    "use height and width, or shortest_edge",
                )
        if value("do_center_crop", defaults.get("do_center_crop", False)):
            crop_size = value("crop_size", defaults.get("crop_size", {}))
            if isinstance(crop_size, int):
                crop_size = {"height": crop_size, "width": crop_size}
            crop = (int(crop_size["height"]), int(crop_size["width"]))
        mean, std = defaults["stats"]
        normalise = value("do_normalize", True)
        spec = Preprocess(
            height=image_size[0],
            width=image_size[1],
            resize=resize,
            shortest_edge=shortest_edge,
            resample=int(value("resample", defaults["resample"])),
            crop=crop,
            scale=float(value("rescale_factor", 1 / 255)) if value("do_rescale", True) else None,
            mean=_triple(value("image_mean", mean), "image_mean") if normalise else None,
            std=_triple(value("image_std", std), "image_std") if normalise else None,
        )
        made = spec.crop or spec.resize
        if made != image_size:
            raise CheckpointError(
                f"preprocessor_config.json makes pictures of {made or 'any size'} (height, width) "
                f"but config.json says the model takes {image_size}",
                "correct size or crop_size in preprocessor_config.json",
            )
        return spec

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises TypeError or ValueError for missing or odd fields."""
        names = ("resize", "crop", "mean", "std")
        fields: dict[str, Any] = {
            key: tuple(value) if key in names and value is not None else value
            for key, value in data.items()
        }
        return Preprocess(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def _kind(config: dict[str, Any]) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not isinstance(name, str):
        raise CheckpointError(
            "preprocessor_config.json names no image_processor_type",
            f"add one of: {', '.join(f'{kind}ImageProcessor' for kind in _DEFAULTS)}",
        )
    kind = name
    for suffix in ("Pil", "Fast"):
        kind = kind.removesuffix(suffix)
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _DEFAULTS:
        raise CheckpointError(
            f"the image processor {name} is not supported",
            f"supported: {', '.join(f'{kind}ImageProcessor' for kind in _DEFAULTS)}",
        )
    return kind


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    if isinstance(value, (int, float)):
        value = [value] * 3
    if len(value) != 3:
        raise CheckpointError(
            f"preprocessor_config.json has {len(value)} values in {key}",
            "vit-edge prepares RGB pictures: give three",
        )
    return (float(value[0]), float(value[1]), float(value[2]))
