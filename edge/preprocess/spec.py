"""`Preprocess`: what a checkpoint's image processor does to a picture, as one frozen dataclass.

It is read from the checkpoint once, at build time (`processors.py`), and travels in the passport
and in the ONNX metadata. Both the CPU and the CUDA path do what it says, to the byte.
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

LARGEST = 8192  # pixels of a side


class Placement(NamedTuple):
    """Where a picture goes: it is resized, and a window of that lands in the tensor.

    resized  (height, width) after the resize
    window   (top, left, height, width) of what is used of it
    at       (top, left) of the window in the tensor; around it is `Preprocess.outside`
    """

    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    at: tuple[int, int]


@dataclass(frozen=True)
class Resize:
    """How the size after the resize follows from the picture's.

    stretch        to height x width, whatever the shape
    shortest_edge  the shorter side to `height` (= `width`), unless the longer then exceeds
                   `longest_edge`; the other side is rounded down
    within         as large as fits into height x width, rounded down (max_height, max_width)
    cover          as small as covers height x width, to the nearest pixel (timm's centre mode)
    contain        as large as fits into height x width, to the nearest pixel (timm's border mode)
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
        """(height, width) of a picture of height x width after the resize."""
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
        whole = self.height
        if self.longest_edge is not None and float(long) / float(short) * edge > self.longest_edge:
            edge = self.longest_edge * float(short) / float(long)
            whole = round(edge)
        if short == whole:
            return height, width
        if width < height:
            return int(edge * height / width), whole
        return whole, int(edge * width / height)


@dataclass(frozen=True)
class Preprocess:
    """RGB picture -> resize -> centre crop -> rescale -> normalise -> float32 [3, H, W]."""

    height: int  # of the tensor that the network sees
    width: int
    resize: Resize | None
    resample: int  # PIL.Image.Resampling: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic
    crop: tuple[int, int] | None  # centre crop (height, width) after the resize
    scale: float | None  # multiply the 0..255 values by this
    mean: tuple[float, float, float] | None  # then subtract this per channel
    std: tuple[float, float, float] | None  # and divide by this
    # How half a pixel beside the crop is rounded: "down" is (n - c) // 2, as transformers does,
    # "even" is round((n - c) / 2), as torchvision and timm do.
    crop_rounding: Literal["down", "even"] = "down"
    fill: tuple[int, int, int] = (0, 0, 0)  # RGB of what a crop takes from outside the picture
    pad: tuple[int, int] | None = None  # pad below and right with 0 after normalising
    bgr: bool = False  # the network sees blue, green, red
    opaque: bool = False  # a picture file must have no clear colour: see `load_image`

    def __post_init__(self) -> None:
        """Raises ValueError for what no processor can mean."""
        resize = self.resize
        sizes = [self.height, self.width, *(self.crop or ()), *(self.pad or ())]
        if resize is not None:
            sizes += [resize.height, resize.width, resize.longest_edge or 1]
        if odd := [size for size in sizes if not 1 <= size <= LARGEST]:
            raise ValueError(f"a side of {odd[0]} pixels, which is not within 1 to {LARGEST}")
        stretched = resize is not None and resize.how == "stretch"
        last = self.pad or self.crop
        if resize is not None and stretched:
            last = last or (resize.height, resize.width)
        if last != (self.height, self.width):
            raise ValueError(
                f"pictures of {last or 'any size'}, the model takes {(self.height, self.width)}"
            )
        if self.resample not in (NEAREST, LANCZOS, BILINEAR, BICUBIC):
            raise ValueError(f"resample {self.resample}, which is none of 0 to 3")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"image_std {self.std}, which is not positive")

    def __str__(self) -> str:
        filters = {NEAREST: "nearest", LANCZOS: "lanczos", BILINEAR: "bilinear", BICUBIC: "bicubic"}
        crop, pad = (f"{size[0]}x{size[1]}" if size else "no" for size in (self.crop, self.pad))
        return (
            f"resize {self.resize or 'no'} ({filters[self.resample]}), crop {crop}, pad {pad}, "
            f"mean {self.mean}, std {self.std}"
        )

    def place(self, height: int, width: int) -> Placement:
        """Where a picture of height x width pixels goes.

        Raises `ImageError` when it is so long that nothing is left of its shorter side, or when
        it is larger than `pad` after the resize.
        """
        resized = self.resize.size(height, width) if self.resize else (height, width)
        if min(resized) < 1:
            raise ImageError(
                f"a picture of {width}x{height} pixels would be resized to "
                f"{resized[1]}x{resized[0]}",
                "give one that is less long",
            )
        if self.pad is not None and (resized[0] > self.pad[0] or resized[1] > self.pad[1]):
            raise ImageError(
                f"a picture of {width}x{height} pixels is {resized[1]}x{resized[0]} after the "
                f"resize, more than the {self.pad[1]}x{self.pad[0]} that it is padded to",
                "give one of another shape",
            )
        if self.crop is None:
            return Placement(resized, (0, 0, *resized), (0, 0))
        starts, lengths, places = [], [], []
        for have, want in zip(resized, self.crop, strict=True):
            starts.append(self._beside(have - want) if have > want else 0)
            # transformers pads one more before than after, torchvision one less.
            spare = max(want - have, 0)
            places.append((spare + 1) // 2 if self.crop_rounding == "down" else spare // 2)
            lengths.append(min(have, want))
        return Placement(resized, (*starts, *lengths), (places[0], places[1]))  # type: ignore[arg-type]

    def _beside(self, spare: int) -> int:
        return spare // 2 if self.crop_rounding == "down" else round(spare / 2)

    def table(self) -> npt.NDArray[np.float32]:
        """What each byte value becomes in each channel that the network sees: float32 [3, 256].

        Rescaled in float64 and rounded to float32, normalised in float32, as transformers does.
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
        """What the network sees beside the picture, float32 [3]."""
        if self.pad is not None:
            return np.zeros(3, np.float32)
        fill = self.fill[::-1] if self.bgr else self.fill
        return self.table()[np.arange(3), fill]

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises ValueError for missing or odd fields."""
        return msgspec.convert(data, Preprocess)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
