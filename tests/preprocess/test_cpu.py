"""What the network sees is, byte for byte, what transformers' own processor makes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BitImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil

from edge.errors import ImageError
from edge.preprocess.cpu import Preprocessor, load_image
from edge.preprocess.spec import Preprocess

PROCESSORS = [
    (ViTImageProcessorPil(), 224),
    (ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=3), 64),
    (ViTImageProcessorPil(do_normalize=False), 224),
    (DeiTImageProcessorPil(), 224),
    (BitImageProcessorPil(), 224),
    (BitImageProcessorPil(size={"shortest_edge": 200}), 224),
]


def both(processor, size, pixels):
    spec = Preprocess.from_processor(processor.to_dict(), (size, size))
    expected = processor(pixels, return_tensors="np", input_data_format="channels_last")
    return Preprocessor(spec)(pixels), expected["pixel_values"][0]


@pytest.mark.parametrize(("processor", "size"), PROCESSORS)
@pytest.mark.parametrize("shape", [(720, 1280), (224, 224), (37, 111), (300, 100), (1, 5)])
def test_same_bytes_as_the_processor(processor, size, shape):
    pixels = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    ours, theirs = both(processor, size, pixels)
    assert ours.tobytes() == theirs.tobytes()


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    which=st.integers(0, len(PROCESSORS) - 1),
)
def test_same_bytes_at_any_size(height, width, which):
    processor, size = PROCESSORS[which]
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    ours, theirs = both(processor, size, pixels)
    assert ours.tobytes() == theirs.tobytes()


def test_fills_the_tensor_it_is_given_and_takes_strided_pixels():
    processor, size = PROCESSORS[1]
    wide = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    view = wide[:, 10:130]
    spec = Preprocess.from_processor(processor.to_dict(), (size, size))
    out = np.full((3, size, size), np.nan, np.float32)
    assert Preprocessor(spec)(view, out) is out
    assert out.tobytes() == both(processor, size, np.ascontiguousarray(view))[1].tobytes()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_rgb_picture(pixels):
    spec = Preprocess.from_processor(PROCESSORS[1][0].to_dict(), (64, 64))
    with pytest.raises(ImageError, match="uint8 RGB"):
        Preprocessor(spec)(pixels)


def test_images_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("text.jpg", b"not a picture", "is not a picture"),
        ("cut.png", None, "cannot be decoded"),
        ("absent.png", b"", "does not exist"),
    ],
)
def test_unreadable_images_are_named(tmp_path, name, content, named):
    path = tmp_path / name
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:500])
    elif content:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=named) as caught:
        load_image(path)
    assert name in caught.value.what
