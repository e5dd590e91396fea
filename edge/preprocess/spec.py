"""`Preprocess`: what a checkpoint's image processor does to a picture, as one frozen dataclass.

It is read from `preprocessor_config.json` once, at build time, and travels in the passport and in
the ONNX metadata. A key that is not understood is refused by name rather than ignored, since a
picture that is prepared differently from training costs accuracy that nobody sees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from edge.errors import CheckpointError

__all__ = ["Preprocess"]

LARGEST = 8192  # pixels of a side
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

    def __post_init__(self) -> None:
        """Raises ValueError for what no processor can mean."""
        sizes = [self.height, self.width, *(self.resize or ()), *(self.crop or ())]
        if self.shortest_edge is not None:
            sizes.append(self.shortest_edge)
        if min(sizes) < 1 or max(sizes) > LARGEST:
            raise ValueError(f"a size of {sizes}, which is not within 1 to {LARGEST}")
        if (self.crop or self.resize) != (self.height, self.width):
            raise ValueError(
                f"pictures of {self.crop or self.resize or 'any size'}, the model takes "
                f"{(self.height, self.width)}"
            )
        if self.resample not in (NEAREST, LANCZOS, BILINEAR, BICUBIC):
            raise ValueError(f"resample {self.resample}, which is none of 0 to 3")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"image_std {self.std}, which is not positive")

    @staticmethod
    def from_processor(config: dict[str, Any], image_size: tuple[int, int]) -> Preprocess:
        """Read a `preprocessor_config.json`; image_size is the (height, width) the model takes.

        Raises `CheckpointError` for a processor, key or value that is not understood, and when
        the processor makes pictures of another size than the model takes.
        """
        try:
            return Preprocess._from_processor(config, image_size)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"preprocessor_config.json has {reason}", "correct it, or download it again"
            ) from error

    @staticmethod
    def _from_processor(config: dict[str, Any], image_size: tuple[int, int]) -> Preprocess:
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
                resize = (_whole(size["height"]), _whole(size["width"]))
            elif set(size) == {"shortest_edge"}:
                shortest_edge = _whole(size["shortest_edge"])
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
            crop = (_whole(crop_size["height"]), _whole(crop_size["width"]))
        mean, std = defaults["stats"]
        normalise = value("do_normalize", True)
        return Preprocess(
            height=image_size[0],
            width=image_size[1],
            resize=resize,
            shortest_edge=shortest_edge,
            resample=_whole(value("resample", defaults["resample"])),
            crop=crop,
            scale=float(value("rescale_factor", 1 / 255)) if value("do_rescale", True) else None,
            mean=_triple(value("image_mean", mean), "image_mean") if normalise else None,
            std=_triple(value("image_std", std), "image_std") if normalise else None,
        )

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises ValueError for missing or odd fields."""
        return msgspec.convert(data, Preprocess)

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
