"""The tensors equal those of transformers' own processor, byte for byte.

Both engines are held to it. Pillow stays at the version in constraints.txt: later ones exchange the
passes of a resize for some shapes (see `cpu.py`).
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import (
    BeitImageProcessorPil,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    MobileViTImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from edge.errors import ImageError
from edge.preprocess.cpu import Preprocessor, to_rgb, write_tensor
from edge.preprocess.processors import from_processor
from edge.preprocess.surface import FORMATS, Colour, Surface
from tests.preprocess.picture_files import CLEAR
from tests.preprocess.pictures import noise

WITHIN = {"max_height": 96, "max_width": 64}
PROCESSORS = {
    "vit": (ViTImageProcessorPil(), (224, 224)),
    "vit-bicubic": (ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=3), (64, 64)),
    "vit-lanczos": (ViTImageProcessorPil(size={"height": 60, "width": 90}, resample=1), (60, 90)),
    "vit-nearest": (ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=0), (64, 64)),
    "vit-raw": (ViTImageProcessorPil(do_normalize=False), (224, 224)),
    "vit-levels": (ViTImageProcessorPil(do_rescale=False, image_std=[50, 60, 70]), (224, 224)),
    "within-padded": (
        ViTImageProcessorPil(size=WITHIN, do_pad=True, pad_size={"height": 96, "width": 64}),
        (96, 64),
    ),
    "deit": (DeiTImageProcessorPil(), (224, 224)),
    "beit": (BeitImageProcessorPil(), (224, 224)),
    "beit-cropped": (BeitImageProcessorPil(size=256, do_center_crop=True), (224, 224)),
    "bit": (BitImageProcessorPil(), (224, 224)),
    "bit-padded": (BitImageProcessorPil(size={"shortest_edge": 200}), (224, 224)),
    "bit-longest": (
        BitImageProcessorPil(size={"shortest_edge": 200, "longest_edge": 300}),
        (224, 224),
    ),
    "clip": (CLIPImageProcessorPil(size=64, crop_size=64), (64, 64)),
    "siglip": (SiglipImageProcessorPil(), (224, 224)),
    "convnext": (ConvNextImageProcessorPil(size={"shortest_edge": 224}), (224, 224)),
    "convnext-384": (ConvNextImageProcessorPil(), (384, 384)),
    "mobilevit": (MobileViTImageProcessorPil(), (256, 256)),
}
CHINA, FLOWER = load_sample_images().images  # 427x640
PICTURES = {
    "photo": CHINA,
    "other photo": FLOWER,
    "hd": np.asarray(Image.fromarray(FLOWER).resize((1280, 720))),
    "portrait": np.ascontiguousarray(CHINA[:, 200:400]),
    "3:1": np.ascontiguousarray(FLOWER[100:300, :600]),
    "1:3": np.ascontiguousarray(FLOWER[:, 100:242]),
    "exact": np.ascontiguousarray(CHINA[:224, :224]),
    "small": np.ascontiguousarray(FLOWER[200:237, 300:411]),
    "tiny": np.ascontiguousarray(CHINA[100:103, 50:52]),
    "row": np.ascontiguousarray(CHINA[100:101, :40]),
    "column": np.ascontiguousarray(CHINA[:40, 100:101]),
    "pixel": np.ascontiguousarray(CHINA[9:10, 9:10]),
    "noise": np.random.default_rng(3).integers(0, 256, (231, 517, 3), np.uint8),
}
ENGINES = pytest.mark.parametrize("compiled", [False, True], ids=["pillow", "numba"])


def both(name, pixels, compiled):
    processor, size = PROCESSORS[name]
    spec = from_processor(processor.to_dict(), size)
    expected = processor(pixels, return_tensors="np", input_data_format="channels_last")
    return Preprocessor(spec, compiled=compiled)(pixels), expected["pixel_values"][0]


@ENGINES
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_same_bytes_as_the_processor(name, picture, compiled):
    ours, theirs = both(name, PICTURES[picture], compiled)
    assert ours.tobytes() == theirs.tobytes()


@ENGINES
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 400), width=st.integers(1, 400), name=st.sampled_from(sorted(PROCESSORS))
)
def test_same_bytes_at_any_size(compiled, height, width, name):
    # Beyond, transformers itself resizes a side to nothing.
    assume(name != "within-padded" or (64 * height >= width and 96 * width >= height))
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    ours, theirs = both(name, pixels, compiled)
    assert ours.tobytes() == theirs.tobytes()


@ENGINES
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["vit", "clip", "mobilevit", "bit-padded"])
def test_every_format_gives_the_bytes_of_its_rgb_image(form, name, compiled):
    """A surface, also with padded rows, gives the same tensor as its RGB conversion."""
    for width, height in ((101, 77), (64, 48), (1, 1), (2, 3)):
        for colour in (Colour("bt601", False), Colour("bt2020", True, False, True)):
            surface = noise(form, width, height, colour, padding=9)
            processor, size = PROCESSORS[name]
            spec = from_processor(processor.to_dict(), size)
            _, theirs = both(name, np.ascontiguousarray(to_rgb(surface)), compiled)
            assert Preprocessor(spec, compiled=compiled)(surface).tobytes() == theirs.tobytes()


@ENGINES
def test_one_preprocessor_serves_threads_and_changing_image_sizes(compiled):
    from concurrent.futures import ThreadPoolExecutor

    processor, size = PROCESSORS["clip"]
    ready = Preprocessor(from_processor(processor.to_dict(), size), compiled=compiled)
    pictures = [noise(form, 90 + 7 * i, 80, seed=i) for i, form in enumerate(FORMATS)] * 6
    expected = [ready(picture).tobytes() for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: ready(picture).tobytes(), pictures))
    assert found == expected


def test_an_image_that_would_be_resized_to_nothing_is_refused():
    processor, size = PROCESSORS["within-padded"]
    ready = Preprocessor(from_processor(processor.to_dict(), size))
    with pytest.raises(ImageError, match="1000x1 pixels"):
        ready(np.zeros((1, 1000, 3), np.uint8))


def test_columns_are_resized_before_rows_in_every_version_of_pillow():
    """A shape for which Pillow 13 resizes the rows first: the columns still come first here."""
    pixels = np.random.default_rng(0).integers(0, 256, (294, 93, 3), np.uint8)
    spec = from_processor(
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 45, "width": 90}}, (45, 90)
    )
    image = Image.fromarray(pixels).resize((90, 294), 2)
    rows_last = np.asarray(image.resize((90, 45), 2))
    image = Image.fromarray(pixels).resize((93, 45), 2)
    rows_first = np.asarray(image.resize((90, 45), 2))
    assert (rows_first != rows_last).any()  # the picture can tell
    for compiled in (False, True):
        found = Preprocessor(spec, compiled=compiled)(pixels)
        expected = np.moveaxis(rows_last, -1, 0)
        assert (
            found
            == np.take_along_axis(spec.table(), expected.reshape(3, -1), 1).reshape(found.shape)
        ).all()


def test_fills_the_tensor_it_is_given_and_takes_strided_pixels():
    name = "vit-bicubic"
    processor, size = PROCESSORS[name]
    wide = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    view = wide[:, 10:130]
    spec = from_processor(processor.to_dict(), size)
    for compiled in (False, True):
        out = np.full((3, *size), np.nan, np.float32)
        assert Preprocessor(spec, compiled=compiled)(view, out) is out
        assert out.tobytes() == both(name, np.ascontiguousarray(view), compiled)[1].tobytes()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_that_are_not_rgb_are_refused(pixels):
    spec = from_processor(PROCESSORS["vit-bicubic"][0].to_dict(), (64, 64))
    with pytest.raises(ImageError, match="uint8 RGB"):
        Preprocessor(spec)(pixels)


def test_no_tensor_is_written_for_a_transparent_colour_that_the_processor_may_paint(tmp_path):
    CLEAR["rgb.png"].make(tmp_path / "clear.png")
    vit, clip = (
        from_processor(processor.to_dict(), size)
        for processor, size in (PROCESSORS["vit"], PROCESSORS["clip"])
    )
    write_tensor(vit, tmp_path / "clear.png", tmp_path / "vit.npy")
    assert np.load(tmp_path / "vit.npy").shape == (3, 224, 224)
    with pytest.raises(ImageError, match=r"clear\.png has a transparent colour"):
        write_tensor(clip, tmp_path / "clear.png", tmp_path / "clip.npy")
    assert not (tmp_path / "clip.npy").exists()


# EXIF's orientations, as Pillow's `exif_transpose` turns them.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@ENGINES
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_surface_is_prepared_upright(orientation, compiled):
    ready = Preprocessor(
        from_processor(PROCESSORS["bit"][0].to_dict(), (224, 224)), compiled=compiled
    )
    for form in FORMATS:
        stored = noise(form, 91, 62, padding=5)
        turned = Surface(replace(stored.layout, orientation=orientation), stored.planes)
        image = Image.fromarray(np.ascontiguousarray(to_rgb(stored))).transpose(TURNS[orientation])
        upright = np.asarray(image)
        assert turned.layout.upright == image.size
        assert np.array_equal(to_rgb(turned), upright)
        assert np.array_equal(ready(turned), ready(upright))
