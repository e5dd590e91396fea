"""`Preprocess`: the steps of a checkpoint's image processor as one frozen dataclass.

It is read from the checkpoint once, at build time (`processors.py`), and stored in the passport
and in the ONNX metadata. The CPU and the CUDA implementation both follow it, to the byte.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge.errors import ImageError
from edge.preprocess.resample import BICUBIC, BILINEAR, LANCZOS, NEAREST

__all__ = ["Placement", "Preprocess", "Resize"]

LARGEST = 8192  # pixels per side
LARGEST_RESIZE = 178_956_970  # pixels of an image between the two steps of its resize


class Placement(NamedTuple):
    """The position of an image in the tensor: it is resized, and a window of that is copied.

    resized  (height, width) after the resize
    window   (top, left, height, width) of the part of the resized image that is used
    at       (top, left) of the window in the tensor; around it is `Preprocess.outside`
    """

    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    at: tuple[int, int]


@dataclass(frozen=True)
class Resize:
    """The rule that gives the size of an image after the resize.

    stretch        to height x width; the aspect ratio is not kept
    shortest_edge  the shorter side to `height` (= `width`), or less, so that the longer side does
                   not exceed `longest_edge`; the other side is rounded down
    within         the largest size within height x width, rounded down (max_height, max_width)
    cover          the smallest size that covers height x width, rounded to the nearest pixel
                   (timm's centre mode)
    contain        the largest size within height x width, rounded to the nearest pixel (timm's
                   border mode)
    """

    how: Literal["stretch", "shortest_edge", "within", "cover", "contain"]
    height: int
    width: int
    longest_edge: int | None = None

    def __str__(self) -> str:
        if self.how != "shortest_edge":
            return f"{self.how} {self.height}x{self.width}"
        longest = f", at most {self.longest_edge}" if self.longest_edge else ""
        return f"shortest edge {self.height}{longest}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize of an image of height x width."""
        if self.how == "stretch":
            return self.height, self.width
        if self.how == "shortest_edge":
            return self._shortest_edge(height, width)
        if self.how == "within":  # transformers' get_image_size_for_max_height_width
            scale = min(self.height / height, self.width / width)
            return int(height * scale), int(width * scale)
        choose = min if self.how == "cover" else max  # timm's ResizeKeepRatio
        ratio = choose(height / self.height, width / self.width)
        return round(height / ratio), round(width / ratio)

    def _shortest_edge(self, height: int, width: int) -> tuple[int, int]:
        """transformers' get_size_with_aspect_ratio."""
        edge: float = self.height
        short, long = min(height, width), max(height, width)
        target = self.height
        if self.longest_edge is not None and float(long) / float(short) * edge > self.longest_edge:
            edge = self.longest_edge * float(short) / float(long)
            target = round(edge)
        if short == target:
            return height, width
        if width < height:
            return int(edge * height / width), target
        return target, int(edge * width / height)


@dataclass(frozen=True)
class Preprocess:
    """RGB image -> resize -> centre crop -> rescale -> normalise -> float32 [3, H, W]."""

    height: int  # of the network's input
    width: int
    resize: Resize | None
    resample: int  # PIL.Image.Resampling: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic
    crop: tuple[int, int] | None  # centre crop (height, width) after the resize
    scale: float | None  # multiply the 0..255 values by this
    mean: tuple[float, float, float] | None  # then subtract this per channel
    std: tuple[float, float, float] | None  # and divide by this
    # Rounding of the crop's offset, for n pixels cropped to c: "down" is (n - c) // 2, as in
    # transformers; "even" is round((n - c) / 2), as in torchvision and timm.
    crop_rounding: Literal["down", "even"] = "down"
    fill: tuple[int, int, int] = (0, 0, 0)  # RGB of pixels of a crop that lie outside the image
    pad: tuple[int, int] | None = None  # pad bottom and right with 0 after normalising
    bgr: bool = False  # the network's channels are blue, green, red
    opaque: bool = False  # refuse image files with a transparent colour: see `load_image`

    def __post_init__(self) -> None:
        """Raises ValueError for values that no processor can have."""
        resize = self.resize
        sizes = [self.height, self.width, *(self.crop or ()), *(self.pad or ())]
        if resize is not None:
            sizes += [resize.height, resize.width]
            sizes += [] if resize.longest_edge is None else [resize.longest_edge]
        if invalid := [size for size in sizes if not 1 <= size <= LARGEST]:
            raise ValueError(f"a side of {invalid[0]} pixels, which is not within 1 to {LARGEST}")
        stretched = resize is not None and resize.how == "stretch"
        last = self.pad or self.crop
        if resize is not None and stretched:
            last = last or (resize.height, resize.width)
        if last != (self.height, self.width):
            raise ValueError(
                f"images of {last or 'any size'}, but the model takes {(self.height, self.width)}"
            )
        if self.resample not in (NEAREST, LANCZOS, BILINEAR, BICUBIC):
            raise ValueError(f"resample {self.resample}, which is not 0, 1, 2 or 3")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"image_std {self.std}, which is not positive")
        if (self.mean is None) is not (self.std is None):
            raise ValueError(f"mean {self.mean} with std {self.std}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"a fill of {self.fill}, which is not within 0 to 255")
        with np.errstate(all="ignore"):
            table = self.table()
        if not (np.isfinite(table).all() and (table[:, 255] > table[:, 0]).all()):
            raise ValueError(
                f"scale {self.scale}, mean {self.mean} and std {self.std}, which leave no image"
            )

    def __str__(self) -> str:
        filters = {NEAREST: "nearest", LANCZOS: "lanczos", BILINEAR: "bilinear", BICUBIC: "bicubic"}
        crop, pad = (f"{size[0]}x{size[1]}" if size else "no" for size in (self.crop, self.pad))
        return (
            f"resize {self.resize or 'no'} ({filters[self.resample]}), crop {crop}, pad {pad}, "
            f"mean {self.mean}, std {self.std}"
        )

    def place(self, height: int, width: int) -> Placement:
        """The placement of an image of height x width pixels.

        Raises `ImageError` if the image is so elongated that its shorter side would be resized to
        0 pixels, or if it is larger than `pad` after the resize.
        """
        resized = self.resize.size(height, width) if self.resize else (height, width)
        if min(resized) < 1:
            raise ImageError(
                f"an image of {width}x{height} pixels would be resized to "
                f"{resized[1]}x{resized[0]}",
                "use a less elongated image",
            )
        # Pillow's own bound for an image, here for each step of the resize: of 1x20,000,000 pixels
        # gigabytes would be made.
        if max(height, resized[0]) * resized[1] > LARGEST_RESIZE:
            raise ImageError(
                f"an image of {width}x{height} pixels is too elongated to be resized",
                "use a less elongated image",
            )
        if self.pad is not None and (resized[0] > self.pad[0] or resized[1] > self.pad[1]):
            raise ImageError(
                f"an image of {width}x{height} pixels is {resized[1]}x{resized[0]} after the "
                f"resize, more than the {self.pad[1]}x{self.pad[0]} that it is padded to",
                "use an image of another aspect ratio",
            )
        if self.crop is None:
            return Placement(resized, (0, 0, *resized), (0, 0))
        starts, lengths, places = [], [], []
        for have, want in zip(resized, self.crop, strict=True):
            starts.append(self._offset(have - want) if have > want else 0)
            # For an odd sum, transformers pads one more before than after, torchvision one less.
            spare = max(want - have, 0)
            places.append((spare + 1) // 2 if self.crop_rounding == "down" else spare // 2)
            lengths.append(min(have, want))
        return Placement(resized, (*starts, *lengths), (places[0], places[1]))  # type: ignore[arg-type]

    def _offset(self, spare: int) -> int:
        return spare // 2 if self.crop_rounding == "down" else round(spare / 2)

    def table(self) -> npt.NDArray[np.float32]:
        """The network's input for each byte value, per channel: float32 [3, 256].

        Rescaled in float64, rounded to float32 and normalised in float32, as in transformers.
        """
        values = np.arange(256, dtype=np.uint8)
        if self.scale is not None:
            scaled = (values.astype(np.float64) * self.scale).astype(np.float32)
        else:
            scaled = values.astype(np.float32)
        table = np.repeat(scaled[None], 3, axis=0)
        if self.mean is not None and self.std is not None:
            mean = np.array(self.mean, np.float32)[:, None]
            std = np.array(self.std, np.float32)[:, None]
            table = (table - mean) / std
        return table

    def outside(self) -> npt.NDArray[np.float32]:
        """The network's input outside the image, per channel: float32 [3]."""
        if self.pad is not None:
            return np.zeros(3, np.float32)
        fill = self.fill[::-1] if self.bgr else self.fill
        return self.table()[np.arange(3), fill]

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises ValueError for missing or invalid fields."""
        return msgspec.convert(data, Preprocess)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
