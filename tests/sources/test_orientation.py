"""Videos and images that say how they are turned are read upright."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edge.sources.orientation import orientation_of
from edge.sources.source import Source
from tests.streams import launch

QUADRANTS = ["red", "green", "blue", "yellow"]
# Clockwise degrees -> the matrix of a track header (ISO/IEC 14496-12, 8.3.2), and EXIF's value.
MATRICES = {
    0: ((1, 0, 0, 0, 1, 0, 0, 0, 1), 1),
    90: ((0, 1, 0, -1, 0, 0, 64, 0, 1), 6),
    180: ((-1, 0, 0, 0, -1, 0, 96, 64, 1), 3),
    270: ((0, -1, 0, 1, 0, 0, 0, 96, 1), 8),
}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """96x64 pixels; each quadrant has a colour of its own."""
    image = Image.new("RGB", (96, 64))
    for index, colour in enumerate(QUADRANTS):
        image.paste(
            colour, (index % 2 * 48, index // 2 * 32, index % 2 * 48 + 48, index // 2 * 32 + 32)
        )
    return image


@pytest.fixture(scope="module")
def videos(image: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image as video.mp4 and video.mov."""
    folder = tmp_path_factory.mktemp("videos")
    image.save(folder / "image.png")
    for muxer, suffix in (("mp4mux", "mp4"), ("qtmux", "mov")):
        launch(
            f"filesrc location={folder}/image.png ! pngdec ! imagefreeze num-buffers=5 ! "
            "videoconvert ! video/x-raw,format=I420 ! x264enc ! h264parse ! "
            f"{muxer} ! filesink location={folder}/video.{suffix}"
        )
    return folder


def first_frame(path: Path) -> tuple[int, np.ndarray]:
    """The orientation and the pixels of the first frame."""
    with Source(path.as_uri()) as source:
        frame = source.read(10)
    assert frame is not None
    return frame.surface.layout.orientation, frame.pixels


def same(pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Whether pixels show the same quadrants, whatever an encoder lost."""
    return pixels.shape == expected.shape and bool(
        np.abs(pixels.astype(int) - expected).mean() < 12
    )


@pytest.mark.parametrize("degrees", MATRICES)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_video_of_a_phone(
    suffix: str, degrees: int, videos: Path, image: Image.Image, tmp_path: Path
) -> None:
    matrix, orientation = MATRICES[degrees]
    data = bytearray((videos / f"video.{suffix}").read_bytes())
    start = data.index(b"tkhd") + 4
    start += 4 + (32 if data[start] else 20) + 16  # version, times and IDs; layer and volume
    fixed = [round(value * (1 << (30 if at % 3 == 2 else 16))) for at, value in enumerate(matrix)]
    data[start : start + 36] = struct.pack(">9i", *fixed)
    path = tmp_path / f"turned.{suffix}"
    path.write_bytes(data)
    found, pixels = first_frame(path)
    assert found == orientation
    assert same(pixels, np.rot90(np.asarray(image), -degrees // 90))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_with_exif(
    suffix: str, orientation: int, image: Image.Image, tmp_path: Path
) -> None:
    path, exif = tmp_path / f"image.{suffix}", Image.Exif()
    exif[0x112] = orientation
    image.save(path, exif=exif)
    found, pixels = first_frame(path)
    assert found == orientation
    assert same(pixels, np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))


def element(identity: int, *data: bytes) -> bytes:
    """A Matroska element (RFC 8794)."""
    inside = b"".join(data)
    name = identity.to_bytes(-(-identity.bit_length() // 8), "big")
    return name + (1 << 56 | len(inside)).to_bytes(8, "big") + inside


def video(roll: bytes, *flags: bytes) -> bytes:
    """A track of video with this ProjectionPoseRoll."""
    shape = element(0xE0, element(0xB0, b"\x60"), element(0x7670, element(0x7675, roll)))
    return element(0xAE, *flags, shape)


def matroska(*videos: bytes, cluster_first: bool = False) -> bytes:
    """A file with a track of sound, and then tracks of video."""
    tracks = element(0x1654AE6B, element(0xAE, element(0x83, b"\2")), *videos)
    cluster = element(0x1F43B675, b"\0" * 40)
    parts = (cluster, tracks) if cluster_first else (tracks, cluster)
    return element(0x1A45DFA3, b"") + element(0x18538067, element(0xEC, b"\0" * 9), *parts)


LEFT, RIGHT, NOT_DEFAULT = struct.pack(">f", 90), struct.pack(">f", -90), element(0x88, b"\0")


@pytest.mark.parametrize(
    ("data", "orientation"),
    [
        (matroska(video(struct.pack(">f", 0))), 1),
        (matroska(video(struct.pack(">f", 90))), 8),  # counter-clockwise
        (matroska(video(struct.pack(">d", -90))), 6),
        (matroska(video(struct.pack(">d", 180))), 3),
        (matroska(video(struct.pack(">f", 270))), 6),
        (matroska(video(struct.pack(">f", 45))), 1),
        (matroska(video(struct.pack(">f", float("nan")))), 1),
        (matroska(video(struct.pack(">f", float("inf")))), 1),
        (matroska(video(b"")), 1),
        (matroska(video(b"\x43")), 1),
        (matroska(video(struct.pack(">f", 90)), cluster_first=True), 8),
        (matroska(video(struct.pack(">f", 90)))[:60], 1),
        (matroska(video(LEFT), video(RIGHT)), 8),
        (matroska(video(LEFT, NOT_DEFAULT), video(RIGHT)), 6),
        (matroska(video(LEFT, NOT_DEFAULT), video(RIGHT, NOT_DEFAULT)), 8),
        (matroska(video(LEFT), video(RIGHT, element(0x88, b"\1"))), 8),
        (element(0x1A45DFA3, b"") + bytes(1000), 1),
        (b"", 1),
        (b"no video", 1),
    ],
)
def test_the_roll_of_a_matroska_file(data: bytes, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    path.write_bytes(data)
    assert orientation_of(path) == orientation


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert orientation_of(tmp_path / "gone.mkv") == 1


@pytest.mark.parametrize(
    ("tags", "orientation"),
    [
        ("image-orientation=rotate-90", 6),
        ("image-orientation=flip-rotate-270", 5),
        ("image-orientation=rotate-0", 1),
        ("title=door", 1),
    ],
)
def test_a_pipeline_that_names_an_orientation(tags: str, orientation: int) -> None:
    frames = "videotestsrc num-buffers=2 ! video/x-raw,width=32,height=16"
    with Source(f"gst:{frames} ! taginject tags={tags}") as source:
        found = [frame.surface.layout for _ in range(2) if (frame := source.read(10))]
    assert [layout.orientation for layout in found] == [orientation] * 2
    assert found[0].upright == ((16, 32) if orientation in (5, 6) else (32, 16))
