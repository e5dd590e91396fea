"""Loading of images: the bytes equal those of transformers, or the file is refused by name."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil, image_utils

from edge.errors import ImageError
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import as_pixels, load_image, suffixes
from edge.preprocess.processors import from_processor
from edge.preprocess.spec import Preprocess, Resize
from tests.preprocess.picture_files import CLEAR, READ, REFUSED, RGB, sized

PROCESSORS = (
    ViTImageProcessorPil(size={"height": 64, "width": 64}),
    CLIPImageProcessorPil(size=64, crop_size=64),
)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", READ)
def test_the_tensor_is_that_of_transformers(tmp_path, name):
    path, kind = tmp_path / name, READ[name]
    kind.make(path)
    with Image.open(path) as image:
        found = (image.format, image.mode, getattr(image, "n_frames", 1))
    assert found == (kind.format, kind.mode, kind.frames)
    ours, theirs = load_image(path, opaque=True), image_utils.load_image(str(path))
    for processor in PROCESSORS:
        prepare = Preprocessor(from_processor(processor.to_dict(), (64, 64)))
        expected = processor(theirs, return_tensors="np")["pixel_values"][0]
        assert prepare(ours).tobytes() == expected.tobytes()
    with Image.open(path) as image:
        assert np.array_equal(as_pixels(image), ours)


@pytest.mark.parametrize("name", CLEAR)
def test_a_transparent_colour_is_refused_only_where_transformers_versions_differ(tmp_path, name):
    path = tmp_path / name
    CLEAR[name].make(path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == CLEAR[name][1:3]
    vit, clip = (from_processor(processor.to_dict(), (64, 64)) for processor in PROCESSORS)
    theirs = PROCESSORS[0](image_utils.load_image(str(path)), return_tensors="np")["pixel_values"]
    ours = Preprocessor(vit)(load_image(path, opaque=vit.opaque))
    assert ours.tobytes() == theirs[0].tobytes()
    with pytest.raises(
        ImageError, match=rf"{name} has a transparent colour.*; save it without transp"
    ):
        load_image(path, opaque=clip.opaque)
    with (
        Image.open(path) as image,
        pytest.raises(ImageError, match="PIL image has a transparent colour"),
    ):
        as_pixels(image, opaque=clip.opaque)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.swapaxes(0, 1)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda p: np.rot90(p)),
        (9, lambda p: p),  # means nothing
    ],
)
def test_the_exif_rotation_is_applied(tmp_path, orientation, turn):
    READ[f"turned {orientation}.jpg"].make(tmp_path / "turned.jpg")
    RGB.save(tmp_path / "upright.jpg")
    expected = turn(np.asarray(Image.open(tmp_path / "upright.jpg")))
    assert np.array_equal(load_image(tmp_path / "turned.jpg"), expected)


@pytest.mark.parametrize("name", ["film.webp", "film.png", "film with a cover.png", "pages.tif"])
def test_the_first_image_of_a_file_is_decoded(tmp_path, name):
    READ[name].make(tmp_path / name)
    assert np.array_equal(load_image(tmp_path / name), np.asarray(RGB))


def test_alpha_is_dropped(tmp_path):
    Image.merge("RGBA", (*RGB.split(), RGB.getchannel(0))).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(RGB))


def refusal(call, *arguments):
    """What a call is refused with, within half a minute: one that waits for ever is none."""
    told = []

    def refused():
        with pytest.raises(ImageError) as caught:
            call(*arguments)
        told.append(caught.value)

    thread = threading.Thread(target=refused, daemon=True)
    thread.start()
    thread.join(30)
    assert told, "it was not refused, or it still waits"
    return told[0]


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_file_is_refused_by_name_here_and_by_transformers(tmp_path, name):
    path = tmp_path / name
    make, words = REFUSED[name]
    make(path)
    error = refusal(load_image, path)
    assert f"{path} {words}" in str(error)
    assert error.hint
    assert str(refusal(as_pixels, str(path))) == str(error)
    with pytest.raises((ValueError, OSError, Image.DecompressionBombError)):
        image_utils.load_image(str(path))


def test_a_file_without_read_permission_is_an_error():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "locked.jpg"
        RGB.save(path)
        path.chmod(0)
        Path(folder).chmod(0o755)
        user = os.geteuid()
        if user == 0:  # may read everything
            os.seteuid(65534)
        try:
            error = refusal(load_image, path)
        finally:
            os.seteuid(user)
    assert str(error).startswith(f"{path} cannot be read (Permission denied); check the path, its")


def test_the_limit_of_pixels_is_pillow_s_as_it_is_for_transformers(tmp_path, monkeypatch):
    """Beyond half of it Pillow warns and reads on."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for number, (width, height) in enumerate([(50, 20), (50, 40), (50, 41)]):
        sized(width, height)(tmp_path / f"{number}.png")
    load_image(tmp_path / "0.png")
    with pytest.warns(Image.DecompressionBombWarning):
        theirs = np.asarray(image_utils.load_image(str(tmp_path / "1.png")))
    with pytest.warns(Image.DecompressionBombWarning):
        assert np.array_equal(load_image(tmp_path / "1.png"), theirs)
    with pytest.raises(
        ImageError, match=r"2\.png is too large \(Image size \(2050 pixels\).*small"
    ):
        load_image(tmp_path / "2.png")


def test_an_image_that_does_not_fit_into_memory_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    RGB.save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(ImageError, match=r"a\.png is too large \(out of memory\)"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"),
        *("RGBX", "RGBa", "I;16", "I;16L", "I;16B", "I;16N"),
    ],
)
def test_a_pil_image_of_any_mode_is_what_transformers_makes_of_it(mode):
    image = Image.frombytes(mode, (6, 4), bytes(range(32, 128)))
    theirs = np.asarray(image_utils.load_image(image))
    assert np.array_equal(as_pixels(image), theirs)


def test_a_pil_image_is_turned_as_its_exif_says_and_stays_as_it_was(tmp_path):
    READ["turned 6.jpg"].make(tmp_path / "turned.jpg")
    with Image.open(tmp_path / "turned.jpg") as image:
        assert as_pixels(image).shape == (60, 40, 3)
        assert image.size == (60, 40)


def test_a_pil_image_that_cannot_be_rgb_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"mode La to RGB \(conversion .*convert it"):
        as_pixels(Image.new("La", (4, 4)))
    REFUSED["cut.jpg"][0](tmp_path / "cut.jpg")
    # Pillow decodes a file only when its pixels are asked for.
    with Image.open(tmp_path / "cut.jpg") as cut, pytest.raises(ImageError, match="is truncated"):
        as_pixels(cut)
    with pytest.raises(ImageError, match="mode RGB to RGB"):
        as_pixels(cut)  # closed
    odd = Image.new("RGB", (4, 4))
    odd.info["transparency"] = (1, 2)
    with pytest.raises(ImageError, match="mode RGB to RGB"):
        as_pixels(odd, opaque=True)


@pytest.mark.parametrize("picture", [None, 3, b"\xff\xd8\xff", ["a.jpg"], object()])
def test_what_cannot_be_a_picture_is_refused_by_its_type(picture):
    told = f"an image cannot be a {type(picture).__name__}; give a path, a PIL image or uint8 RGB"
    with pytest.raises(ImageError) as caught:
        as_pixels(picture)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_the_format_is_one_of_a_list_whatever_the_name(tmp_path, monkeypatch, suffix):
    """Pillow reads EPS by running Ghostscript on it."""
    path = tmp_path / f"drawing{suffix}"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: started.append(words))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    with pytest.raises(ImageError, match="is not an image"):
        load_image(path)
    assert started == []


@pytest.mark.parametrize(("format", "suffix"), [("AVIF", ".avif"), ("HEIF", ".heic")])
def test_photos_of_phones_are_read(tmp_path, format, suffix):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(tmp_path / f"a{suffix}", format, quality=95)
    pixels = load_image(tmp_path / f"a{suffix}")
    assert abs(pixels.astype(int) - np.asarray(picture)).mean() < 3
    assert suffix in suffixes()


def test_heic_without_its_package_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "photo.jpg")
    assert "photo.jpg is a HEIC image, which needs pillow-heif" in caught.value.problem
    assert "pip install -c constraints.txt '.[heic]'; or save it as JPEG" in caught.value.hint


@pytest.mark.parametrize("size", [(1, 2_000_000), (2_000_000, 1), (1, 20_000_000)])
def test_an_image_with_a_side_of_millions_of_pixels_is_refused_undecoded(
    tmp_path, monkeypatch, size
):
    """39 KB of PNG took 4.3 GB and 27 seconds."""
    path = tmp_path / "thin.png"
    Image.new("L", size).save(path)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"no side may exceed 1,000,000"):
        load_image(path)
    monkeypatch.undo()
    with pytest.raises(ImageError, match="a PIL image has"):
        as_pixels(Image.new("L", size))


@pytest.mark.parametrize(
    ("how", "height", "width", "refused"),
    [
        ("stretch", 1_000_000, 1, True),  # 1,000,000 rows of 224 pixels between the two steps
        ("stretch", 700_000, 1, False),
        ("stretch", 1, 1_000_000, False),
        ("shortest_edge", 1_000_000, 1, True),  # would become 224 x 224,000,000
        ("shortest_edge", 1, 1_000_000, True),
        ("shortest_edge", 20_000, 1000, False),
    ],
)
def test_what_a_resize_needs_is_bounded(how, height, width, refused):
    spec = Preprocess(224, 224, Resize(how, 224, 224), 2, (224, 224), None, None, None)
    if not refused:
        assert spec.place(height, width)
        return
    with pytest.raises(ImageError, match="too elongated to be resized"):
        spec.place(height, width)


def test_a_video_is_named_with_the_command_that_labels_it(tmp_path):
    path = tmp_path / "film.MP4"
    path.write_bytes(bytes(4) + b"ftypisom" + bytes(100))
    with pytest.raises(ImageError, match=r"is a video, not an image; .* --source .*film\.MP4"):
        load_image(path)


@pytest.mark.parametrize("typed", ["https://host/a.jpg", Path("https://host/a.jpg")])
def test_an_address_is_named_as_it_was_typed(typed):
    with pytest.raises(ImageError, match=r"^https://host/a\.jpg is an address.*; download it"):
        load_image(typed)


def test_a_name_almost_right_is_suggested(tmp_path):
    (tmp_path / "camera.jpg").touch()
    with pytest.raises(ImageError, match=rf"did you mean {tmp_path}/camera\.jpg\?"):
        load_image(tmp_path / "camra.jpg")
