"""Loading of images: a file, a PIL image or an array as RGB pixels.

The calls to Pillow are those of `transformers.image_utils.load_image`, which its pipelines use, so
the pixels are the same.
"""

from __future__ import annotations

import re
import stat
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from edge.errors import ImageError, MissingPackage, require
from edge.files.reading import ACCESS, did_you_mean

__all__ = ["ImageInput", "as_pixels", "exif_orientation", "load_image", "suffixes"]

# The formats that are decoded, whatever a file's name. Pillow has others, and reads EPS by running
# Ghostscript on it.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LONGEST = 1_000_000  # pixels of a side: the resampling tables grow with it
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".3gp")
_URL = re.compile(r"(https?|ftp|rtsp):/+(.*)", re.S)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # phones' photos

Pixels = npt.NDArray[np.uint8]
ImageInput: TypeAlias = "str | PathLike[str] | Image.Image | Pixels"


def load_image(path: str | PathLike[str], *, opaque: bool = False) -> Pixels:
    """Decode an image file to RGB uint8 [H, W, 3], with its EXIF rotation applied.

    Of a file with several images, the first is decoded. Alpha is dropped.

    opaque: refuse an image that has pixels of its transparent palette colour. Processors that
    convert to RGB themselves (`do_convert_rgb`) paint that colour white since transformers 5.21,
    and left it unchanged before; all other processors leave it unchanged.

    Raises `ImageError` if the path is not a regular file, or not an intact image; also, before
    decoding, if it has more pixels than Pillow accepts (twice `Image.MAX_IMAGE_PIXELS`:
    178,956,970), or a side of more than `LONGEST`.
    """
    try:
        _check_file(path)
        with _opened(path) as image:
            _check_sides(f"{path}", image.size)
            pixels, transparent = _rgb(image, opaque)
    except ImageError:
        raise
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in _VIDEOS:
            raise ImageError(
                f"{path} is a video, not an image",
                f"label its frames: edge run ENGINE --source {path}",
            ) from None
        raise ImageError(
            f"{path} is not an image", "give a JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP file"
        ) from None
    except FileNotFoundError:
        if url := _URL.match(str(path)):  # a Path has one slash
            raise ImageError(
                f"{url[1]}://{url[2]} is an address, and images are read from files",
                "download it first, as with: curl -O ADDRESS",
            ) from None
        raise ImageError(f"{path} does not exist", did_you_mean(Path(path))) from None
    except (Image.DecompressionBombError, MemoryError) as error:
        why = str(error) or "out of memory"
        raise ImageError(f"{path} is too large ({why})", "use a smaller image") from None
    except Exception as error:  # Pillow raises many types, such as struct.error for damaged EXIF
        if isinstance(error, OSError) and error.strerror:  # raised by the system, not by Pillow
            raise ImageError(f"{path} cannot be read ({error.strerror})", ACCESS) from None
        raise ImageError(f"{path} cannot be decoded ({error})", "replace the file") from None
    if transparent:
        raise _transparent(str(path))
    return pixels


def as_pixels(image: ImageInput, *, opaque: bool = False) -> Pixels:
    """A path, a PIL image or an array as RGB uint8 [H, W, 3]. Raises `ImageError`.

    opaque: see `load_image`. An array is returned unchanged: `Surface.from_rgb` checks its shape
    and type.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        _check_sides("a PIL image", image.size)
        try:
            pixels, transparent = _rgb(image, opaque)
        except Exception as error:  # Pillow decodes only now: the file may be damaged
            raise ImageError(
                f"cannot convert a PIL image of mode {image.mode} to RGB ({error})",
                "convert it to RGB yourself, or use another image",
            ) from error
        if transparent:
            raise _transparent("a PIL image")
        return pixels
    if isinstance(image, (str, PathLike)):
        return load_image(image, opaque=opaque)
    raise ImageError(
        f"an image cannot be a {type(image).__name__}",
        "give a path, a PIL image or uint8 RGB [height, width, 3]",
    )


def exif_orientation(path: Path) -> int:
    """EXIF's orientation of an image file, 1 to 8; 1 for a file that has none or is no image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            orientation: object = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many types; decoding the file will report it
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def suffixes() -> frozenset[str]:
    """The suffixes of the files that `load_image` decodes, in lower case: .jpg, .jfif, ..."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in FORMATS) | {".heic", ".heif"}


def _opened(path: str | PathLike[str]) -> Image.Image:
    """The image, not yet decoded. Raises `ImageError` for HEIC without its optional package."""
    with Path(path).open("rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF or b"avif" in head:
        return Image.open(path, formats=FORMATS)
    try:
        require("pillow_heif").register_heif_opener()
    except MissingPackage as error:
        raise ImageError(
            f"{path} is a HEIC image, which needs pillow-heif",
            f"{error.hint}; or save it as JPEG",
        ) from error
    return Image.open(path, formats=("HEIF",))


def _check_sides(name: str, size: tuple[int, int]) -> None:
    """Raises `ImageError` if a side is longer than `LONGEST`."""
    if max(size) > LONGEST:
        raise ImageError(
            f"{name} has {size[0]}x{size[1]} pixels, and no side may exceed {LONGEST:,}",
            "use a less elongated image",
        )


def _rgb(image: Image.Image, opaque: bool) -> tuple[Pixels, bool]:
    """The pixels; and whether `opaque` is set and a pixel has the transparent palette colour."""
    converted = ImageOps.exif_transpose(image).convert("RGB")
    pixels = np.asarray(converted)
    colour = converted.info.get("transparency") if opaque else None
    return pixels, colour is not None and bool((pixels == colour).all(axis=-1).any())


def _transparent(name: str) -> ImageError:
    return ImageError(
        f"{name} has a transparent colour, which this engine's processor paints white in some "
        "versions of transformers and not in others",
        "save it without transparency",
    )


def _check_file(path: str | PathLike[str]) -> None:
    """Raises `ImageError` unless `path` is a regular file: opening a pipe would block."""
    found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path} is a folder", f"give an image in it: {path}/...")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path} is a pipe or a device, not a file", "save the image to a file")
    if not found.st_size:
        raise ImageError(f"{path} is empty", "replace the file")
