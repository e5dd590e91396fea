"""Scaling a `Preprocess` to another input size: the network sees the same image region."""

import pytest

from edge.preprocess.processors import from_processor
from edge.preprocess.sizes import resized
from edge.preprocess.spec import Resize
from edge.preprocess.timm_config import from_timm


def test_a_stretching_resize_stretches_to_the_new_size():
    vit = from_processor({"image_processor_type": "ViTImageProcessor"}, (224, 224))
    larger = resized(vit, 384)
    assert (larger.height, larger.width, larger.crop) == (384, 384, None)
    assert larger.resize == Resize("stretch", 384, 384)
    assert (larger.mean, larger.resample) == (vit.mean, vit.resample)


def test_a_resize_before_a_crop_grows_in_proportion():
    deit = from_processor({"image_processor_type": "DeiTImageProcessor"}, (224, 224))
    larger = resized(deit, 384)
    assert (larger.resize, larger.crop) == (Resize("stretch", 438, 438), (384, 384))
    config = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 256}}
    clip = resized(from_processor(config, (224, 224)), 448)
    assert (clip.resize, clip.crop) == (Resize("shortest_edge", 512, 512), (448, 448))


@pytest.mark.parametrize("side", [160, 256, 288, 384, 448])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_scaled_sizes_equal_timm_s(side, crop_pct):
    config = {"input_size": (3, 224, 224), "crop_pct": crop_pct}
    expected = from_timm({**config, "input_size": (3, side, side)})
    assert resized(from_timm(config), side) == expected


def test_a_size_beyond_the_limit_is_refused():
    vit = from_processor({"image_processor_type": "ViTImageProcessor"}, (224, 224))
    with pytest.raises(ValueError, match="8200"):
        resized(vit, 8200)
