"""`Witnesses`: images and FP32's answers to them, on which an engine is judged where it runs.

Two files of the engine: `witnesses.png`, the images one below the other, and `witnesses.npz`. They
hold the pixels as they are after resize and crop, in 8 bits, so the network's inputs that are made
of them are those of the build, to the byte.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.engine.passport import Passport
from edge.errors import EngineError
from edge.files.reading import read_bytes
from edge.files.storage import write_bytes
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import FORMATS, Layout, Surface

__all__ = ["ANSWERS", "IMAGES", "LARGEST", "Witnesses", "network_images", "nv12", "witness"]

IMAGES, ANSWERS = "witnesses.png", "witnesses.npz"
# Pixels of all images together. The judge holds their tensors, 12 bytes per pixel.
LARGEST = 1 << 24

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]


def network_images(spec: Preprocess) -> Preprocess:
    """The steps for images that are resized and cropped already: they are only normalised."""
    crop = None if spec.pad else (spec.height, spec.width)
    return replace(spec, resize=None, crop=crop)


def witness(spec: Preprocess, pixels: Pixels) -> Pixels | None:
    """RGB uint8 [H, W, 3] after resize and crop: RGB uint8 [h, w, 3], at most the network's size.

    None if the network's input cannot be made of that to the byte. Raises `ImageError`.
    """
    height, width = spec.height, spec.width
    if spec.pad:  # after normalising, with values that no pixel has: left out here
        _, (_, _, height, width), _ = spec.place(*pixels.shape[:2])
    bare = Preprocessor(replace(spec, scale=None, mean=None, std=None, bgr=False))
    found = bare(pixels).astype(np.uint8).transpose(1, 2, 0)[:height, :width]
    exact = np.array_equal(
        Preprocessor(network_images(spec))(found), Preprocessor(spec)(pixels), equal_nan=True
    )
    return np.ascontiguousarray(found) if exact else None


@dataclass(frozen=True, eq=False)
class Witnesses:
    """Images after resize and crop, RGB uint8 [h, w, 3] each, and FP32's outputs for them.

    outputs: float32 [N, outputs], logits or embeddings, as onnxruntime computed them at build time.
    """

    images: Sequence[Pixels]
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def save(self, folder: Path) -> list[Path]:
        """Write the two files atomically; returns their paths. Raises `StorageError`."""
        sizes = np.array([image.shape[:2] for image in self.images], np.int32)
        height, width = sizes.max(0)
        sheet = np.zeros((len(self), height, width, 3), np.uint8)
        for place, image in zip(sheet, self.images, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        png, npz = io.BytesIO(), io.BytesIO()
        Image.fromarray(sheet.reshape(-1, width, 3)).save(png, "PNG", optimize=True)
        np.savez_compressed(npz, sizes=sizes, outputs=self.outputs)
        write_bytes(folder / IMAGES, png.getvalue())
        write_bytes(folder / ANSWERS, npz.getvalue())
        return [folder / IMAGES, folder / ANSWERS]

    @staticmethod
    def load(folder: Path, passport: Passport) -> Witnesses:
        """The witnesses of the engine in `folder`, checked against its passport.

        Raises `EngineError` if the engine has none, or a file is damaged.
        """
        about = passport.witnesses
        if about is None:
            raise EngineError(
                f"{folder} has no witnesses, the images on which it would be judged: it was built "
                "before 0.2.0",
                "build it again: edge build CHECKPOINT",
            )
        png, npz = (passport.check_file(folder, name) for name in (IMAGES, ANSWERS))
        try:
            sheet = np.asarray(Image.open(io.BytesIO(read_bytes(png)), formats=["PNG"]))
            with np.load(io.BytesIO(read_bytes(npz)), allow_pickle=False) as arrays:
                sizes, outputs = arrays["sizes"], arrays["outputs"]
            sheet = sheet.reshape(len(sizes), -1, *sheet.shape[1:])
            images = [
                image[:height, :width]
                for image, (height, width) in zip(sheet, sizes.tolist(), strict=True)
            ]
            if len(images) != about.images or outputs.shape != (len(images), passport.outputs):
                raise ValueError(f"{len(images)} images with outputs {list(outputs.shape)}")
            if outputs.dtype != np.float32 or sheet.shape[3:] != (3,):
                raise ValueError(f"outputs of {outputs.dtype}, images of {list(sheet.shape[3:])}")
        # Intact files with wrong contents: what Pillow, zipfile and numpy raise has no common base.
        except Exception as error:
            raise EngineError(
                f"the witnesses of {folder} cannot be used ({error})",
                "copy the engine folder again, or build it again",
            ) from error
        return Witnesses(images, outputs)


def nv12(image: Pixels) -> Surface:
    """An image as an NV12 frame, as cameras and decoders deliver them (BT.709, limited range).

    image: RGB uint8 [H, W, 3]. The conversion is rounded: the frame is another image, slightly.
    """
    height, width, _ = image.shape
    red, green, blue = np.moveaxis(image.astype(np.float32) / 255, 2, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    rows, columns = FORMATS["NV12"].plane_size(1, width, height)
    chroma = np.empty((rows, columns // 2, 2), np.uint8)
    for at, difference in enumerate(((blue - luma) / 1.8556, (red - luma) / 1.5748)):
        chroma[..., at] = np.rint(128 + 224 * difference[::2, ::2])
    planes = np.rint(16 + 219 * luma).astype(np.uint8), chroma.reshape(rows, columns)
    return Surface(Layout("NV12", width, height), planes)
