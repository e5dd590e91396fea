"""Picture files of every kind that people have, made when a test asks for them."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 0x0112  # EXIF's and TIFF's tag
Make = Callable[[Path], object]


class Kind(NamedTuple):
    """How a file is made, and what Pillow must find in it for a test to mean what it says."""

    make: Make
    format: str
    mode: str
    frames: int = 1


def colours(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Corners that differ, and noise: uint8 [height, width, 3]."""
    pixels = np.random.default_rng(seed).integers(0, 64, (height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] += 128
    pixels[height // 2 :, : width // 3, 1] += 128
    pixels[: height // 3, width // 2 :, 2] += 128
    return pixels


RGB, *OTHERS = (Image.fromarray(colours(seed=seed)) for seed in range(3))
CMYK = RGB.convert("CMYK")


def saved(image: Image.Image, **options: object) -> Make:
    # A copy, since some formats leave settings of theirs on the image.
    return lambda path: image.copy().save(path, **options)


def sized(width: int, height: int) -> Make:
    return saved(Image.fromarray(colours(height, width)))


def wide(path: Path) -> None:
    """20 million pixels: 60 MB once it is decoded."""
    image = Image.fromarray(colours(10, 200)).resize((20000, 1000), Image.Resampling.NEAREST)
    image.save(path, compress_level=1)


def turned(orientation: int, **options: object) -> Make:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(RGB, exif=exif, **options)


def film(**options: object) -> Make:
    """Three frames, each another picture."""

    def make(path: Path) -> None:
        others = [other.copy() for other in OTHERS]
        RGB.copy().save(path, save_all=True, append_images=others, **options)

    return make


def png(path: Path, size: tuple[int, int], depth: int, rows: bytes) -> None:
    """An RGB PNG written by hand, for what Pillow writes none of. rows: as the format has them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checked = name + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)


def rgb_of_16_bits(path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (40, 60 * 3)).astype(">u2")
    png(path, (60, 40), 16, b"".join(b"\0" + row.tobytes() for row in levels))


def bomb(path: Path) -> None:
    """A few bytes that say that they are 400 million pixels."""
    png(path, (20000, 20000), 8, b"\0")


def adobe(transform: int | None) -> Make:
    """A CMYK JPEG, which Pillow writes inverted and with Adobe's marker, as Photoshop does.

    transform: the marker's, of which 2 says YCCK; None leaves the marker out.
    """

    def make(path: Path) -> None:
        memory = io.BytesIO()
        CMYK.save(memory, "JPEG")
        data = memory.getvalue()
        start = data.index(b"\xff\xee")
        end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        marker = b"" if transform is None else data[start : end - 1] + bytes([transform])
        path.write_bytes(data[:start] + marker + data[end:])

    return make


def lab(path: Path) -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    ImageCms.applyTransform(RGB, transform).save(path)


def grey(dtype: str, scale: float) -> Make:
    return saved(Image.fromarray((colours()[..., 0] * scale).astype(dtype)))


def palette(transparency: object) -> Make:
    return saved(RGB.quantize(16), transparency=transparency)


def cut(make: Make, share: float) -> Make:
    """The file but its end, as a download that broke off leaves it."""

    def cut_off(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return cut_off


def damaged(path: Path) -> None:
    """A JPEG as long as it should be, with other bytes in its midst: no decoder can tell."""
    RGB.save(path, quality=95)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 20] = bytes(range(20))
    path.write_bytes(data)


# What transformers reads.
READ = {
    "1x1.png": Kind(sized(1, 1), "PNG", "RGB"),
    "1x1.jpg": Kind(sized(1, 1), "JPEG", "RGB"),
    "3x50.png": Kind(sized(3, 50), "PNG", "RGB"),
    "20000x10.png": Kind(sized(20000, 10), "PNG", "RGB"),
    "20000x1000.png": Kind(wide, "PNG", "RGB"),
    "grey.jpg": Kind(saved(RGB.convert("L")), "JPEG", "L"),
    "progressive.jpg": Kind(saved(RGB, progressive=True), "JPEG", "RGB"),
    "damaged.jpg": Kind(damaged, "JPEG", "RGB"),
    "cmyk.jpg": Kind(adobe(None), "JPEG", "CMYK"),
    "cmyk of adobe.jpg": Kind(adobe(0), "JPEG", "CMYK"),
    "ycck of adobe.jpg": Kind(adobe(2), "JPEG", "CMYK"),
    **{f"turned {n}.jpg": Kind(turned(n), "JPEG", "RGB") for n in range(1, 10)},
    "turned.png": Kind(turned(6), "PNG", "RGB"),
    "turned.webp": Kind(turned(8), "WEBP", "RGB"),
    "turned.tif": Kind(saved(RGB, tiffinfo={ORIENTATION: 5}), "TIFF", "RGB"),
    "grey of 16 bits.png": Kind(grey("u2", 300.0), "PNG", "I;16"),
    "rgb of 16 bits.png": Kind(rgb_of_16_bits, "PNG", "RGB"),
    "1 bit.png": Kind(saved(RGB.convert("1")), "PNG", "1"),
    "palette.png": Kind(palette(None), "PNG", "P"),
    "palette, alpha.png": Kind(palette(bytes(range(0, 256, 16))), "PNG", "P"),
    "LA.png": Kind(saved(Image.merge("LA", RGB.split()[:2])), "PNG", "LA"),
    "RGBA.png": Kind(saved(Image.merge("RGBA", CMYK.split())), "PNG", "RGBA"),
    "clear colour that is not seen.png": Kind(saved(RGB, transparency=(1, 2, 3)), "PNG", "RGB"),
    "film.gif": Kind(film(), "GIF", "P", 3),
    "film.webp": Kind(film(lossless=True), "WEBP", "RGB", 3),
    "film.png": Kind(film(), "PNG", "RGB", 3),
    "film with a cover.png": Kind(film(default_image=True), "PNG", "RGB", 3),
    "pages.tif": Kind(film(), "TIFF", "RGB", 3),
    "pair.mpo": Kind(film(), "MPO", "RGB", 3),
    "float to 255.tif": Kind(grey("f4", 1.3), "TIFF", "F"),
    "float to 1.tif": Kind(grey("f4", 1 / 255), "TIFF", "F"),
    "grey of 16 bits.tif": Kind(grey("u2", 300.0), "TIFF", "I;16"),
    "grey of 32 bits.tif": Kind(grey("i4", 3.0), "TIFF", "I"),
    "lab.tif": Kind(lab, "TIFF", "LAB"),
    "cmyk.tif": Kind(saved(CMYK), "TIFF", "CMYK"),
    "bitmap.bmp": Kind(saved(RGB), "BMP", "RGB"),
    "wrongly named.jpg": Kind(saved(RGB, format="PNG"), "PNG", "RGB"),
}

# With a clear colour that is seen in the picture.
CLEAR = {
    "palette.png": Kind(palette(3), "PNG", "P"),
    "rgb.png": Kind(saved(RGB, transparency=RGB.getpixel((30, 20))), "PNG", "RGB"),
    "grey.png": Kind(saved(RGB.convert("L"), transparency=60), "PNG", "L"),
    "film.gif": Kind(saved(RGB.quantize(16), transparency=3), "GIF", "P"),
}

# What nobody reads, and what is said of it.
REFUSED: dict[str, tuple[Make, str]] = {
    "cut.jpg": (cut(saved(RGB), 0.6), "cannot be decoded (image file is truncated"),
    "cut in its head.jpg": (cut(saved(RGB), 0.1), "cannot be decoded (Truncated File Read)"),
    "cut.png": (cut(saved(RGB), 0.5), "cannot be decoded (image file is truncated"),
    "cut.gif": (cut(film(), 0.1), "cannot be decoded (image file is truncated"),
    "cut.webp": (cut(saved(RGB), 0.5), "cannot be decoded ("),
    "cut.tif": (cut(saved(RGB), 0.5), "cannot be decoded ("),
    "bomb.png": (bomb, "is too large (Image size (400000000 pixels) exceeds limit of 178956970"),
    "empty.jpg": (Path.touch, "is empty; replace the file"),
    "text.jpg": (partial(Path.write_text, data="no picture"), "is not an image; give a JPEG"),
    "folder.jpg": (Path.mkdir, "is a folder; give an image in it"),
    "pipe.jpg": (os.mkfifo, "is a pipe or a device, not a file; save the image to a file"),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device, not a file"),
    "absent.jpg": (str, "does not exist; check the path"),
    "dangling.jpg": (lambda path: path.symlink_to("nothing.jpg"), "does not exist"),
    "circle.jpg": (lambda path: path.symlink_to(path), "cannot be read (Too many levels"),
}
