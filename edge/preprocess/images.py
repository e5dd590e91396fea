"""A picture as a person gives it becomes pixels: as transformers makes them, or a named refusal.

The calls to Pillow are those of `transformers.image_utils.load_image`, which its pipelines use.
"""

from __future__ import annotations

import stat
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edge.errors import ImageError

__all__ = ["Picture", "as_pixels", "load_image"]

Pixels = npt.NDArray[np.uint8]
Picture: TypeAlias = "str | PathLike[str] | Image.Image | Pixels"


def load_image(path: str | PathLike[str], *, opaque: bool = False) -> Pixels:
    """Decode a picture, of several the first: EXIF rotation applied, RGB uint8 [H, W, 3].

    opaque: refuse a picture whose clear colour is seen. Processors that convert to RGB themselves
    (`do_convert_rgb`) paint it white since transformers 5.21, and left it as it was before; all
    others leave it. Alpha is dropped by all.

    Raises `ImageError` for what is no file, no picture or a damaged one, and for one of more
    pixels than Pillow takes (twice `Image.MAX_IMAGE_PIXELS`: 178,956,970) before it is decoded.
    """
    try:
        _check_file(path)
        with Image.open(path) as image:
            pixels, clear = _rgb(image, opaque)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture", "give a JPEG, PNG, WebP or BMP file") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist", "check the path") from None
    except (Image.DecompressionBombError, MemoryError) as error:
        why = str(error) or "out of memory"
        raise ImageError(f"{path} is too large ({why})", "make the picture smaller") from None
    except Exception as error:  # Pillow raises many kinds, struct.error for damaged EXIF among them
        if isinstance(error, OSError) and error.strerror:  # the system's, not Pillow's
            hint = "check the path, its owner and its permissions"
            raise ImageError(f"{path} cannot be read ({error.strerror})", hint) from None
        raise ImageError(f"{path} cannot be decoded ({error})", "replace the file") from None
    if clear:
        raise _clear(str(path))
    return pixels


def as_pixels(picture: Picture, *, opaque: bool = False) -> Pixels:
    """A path, a PIL image or an array as uint8 RGB [H, W, 3]. Raises `ImageError`.

    opaque: see `load_image`. An array is handed on as it is: `Surface.from_rgb` refuses another
    shape or type.
    """
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, Image.Image):
        try:
            pixels, clear = _rgb(picture, opaque)
        except Exception as error:  # a file that is damaged shows only now, among others
            raise ImageError(
                f"a PIL image of mode {picture.mode} does not become RGB ({error})",
                "convert it before, or give another",
            ) from error
        if clear:
            raise _clear("a PIL image")
        return pixels
    if isinstance(picture, (str, PathLike)):
        return load_image(picture, opaque=opaque)
    raise ImageError(
        f"a picture cannot be a {type(picture).__name__}",
        "give a path, a PIL image or uint8 RGB [height, width, 3]",
    )


def _rgb(image: Image.Image, opaque: bool) -> tuple[Pixels, bool]:
    """The pixels, and whether they show a clear colour where there must be none."""
    converted = ImageOps.exif_transpose(image).convert("RGB")
    pixels = np.asarray(converted)
    clear = converted.info.get("transparency") if opaque else None
    return pixels, clear is not None and bool((pixels == clear).all(axis=-1).any())


def _clear(name: str) -> ImageError:
    return ImageError(
        f"{name} has a clear colour, which this engine's processor paints white in some versions "
        "of transformers and not in others",
        "save it without transparency",
    )


def _check_file(path: str | PathLike[str]) -> None:
    """See that a picture can lie there: to open a pipe would wait for who writes into it."""
    found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path} is a folder", f"name a picture in it: {path}/...")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path} is no file, but a pipe or a device", "save its picture to a file")
    if not found.st_size:
        raise ImageError(f"{path} is empty", "replace the file")
