"""Processor configurations: supported keys are applied, others refused. Bytes: test_cpu."""

import json

import pytest

from edge.errors import CheckpointError
from edge.preprocess.processors import from_processor
from edge.preprocess.spec import Preprocess, Resize

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}


def test_a_processor_s_configuration_is_read():
    spec = from_processor({**VIT, "resample": 3, "image_std": [0.1, 0.2, 0.3]}, (32, 48))
    assert (spec.height, spec.width) == (32, 48)
    assert spec.resize == Resize("stretch", 32, 48)
    assert spec.resample == 3
    assert spec.std == (0.1, 0.2, 0.3)
    assert spec.mean == (0.5, 0.5, 0.5)
    assert spec.scale == pytest.approx(1 / 255)


def test_an_old_feature_extractor_with_a_number_for_its_size():
    config = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32}
    assert from_processor(config, (32, 32)).resize == Resize("stretch", 32, 32)


def test_steps_that_are_switched_off():
    config = {**VIT, "do_rescale": False, "do_normalize": False}
    spec = from_processor(config, (32, 48))
    assert (spec.scale, spec.mean, spec.std) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"image_processor_type": "SamImageProcessor"}, "SamImageProcessor"),
        ({"image_processor_type": None}, "image_processor_type"),
        ({"size": {"height": 64, "width": 48}}, "(64, 48)"),
        ({"size": {"longest_edge": 48}}, "longest_edge"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_mean": "abc"}, "image_mean 'abc'"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"do_center_crop": True}, "no crop_size"),
        ({"do_pad": True, "pad_size": {"height": 40, "width": 48}}, "(40, 48)"),
        ({"do_thumbnail": True}, "do_thumbnail"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"size": {"height": 5.5, "width": 48}}, "5.5"),
        ({"size": "big"}, "'big'"),
        ({"resample": "bicubic"}, "'bicubic'"),
        ({"resample": 9}, "resample 9"),
        ({"rescale_factor": "x"}, "'x'"),
        ({"size": {"height": float("inf"), "width": 48}}, "infinity"),
        ({"size": {"height": 10**9, "width": 48}}, "1 to 8192"),
        ({"image_mean": [10**400, 0, 0]}, "too large"),
    ],
)
def test_an_unsupported_key_or_value_is_refused_by_name(change, named):
    with pytest.raises(CheckpointError) as caught:
        from_processor({**VIT, **change}, (32, 48))
    assert named in caught.value.problem


def test_an_unknown_key_that_is_switched_off_is_accepted():
    from_processor({**VIT, "do_pad": False, "crop_pct": None}, (32, 48))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (VIT, (32, 48)),
        ({"image_processor_type": "CLIPImageProcessor"}, (224, 224)),
        ({"image_processor_type": "MobileViTImageProcessor"}, (256, 256)),
    ],
)
def test_it_is_unchanged_after_the_passport(config, size):
    spec = from_processor(config, size)
    assert Preprocess.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("kind", "says", "opaque"),
    [
        ("ViT", None, False),
        ("ViT", True, True),
        ("CLIP", None, True),
        ("Bit", None, True),
        ("Siglip", None, True),
        ("CLIP", False, False),
    ],
)
def test_processors_that_convert_to_rgb_require_opaque_images(kind, says, opaque):
    config = {"image_processor_type": f"{kind}ImageProcessor", "do_convert_rgb": says}
    assert from_processor(config, (224, 224)).opaque is opaque


def test_a_key_of_one_class_is_refused_in_another():
    config = {"size": {"shortest_edge": 224}, "crop_pct": 0.9}
    ours = from_processor({"image_processor_type": "ConvNextImageProcessor", **config}, (224, 224))
    assert (ours.resize, ours.crop) == (Resize("shortest_edge", 248, 248), (224, 224))
    with pytest.raises(CheckpointError, match="crop_pct"):
        from_processor({"image_processor_type": "CLIPImageProcessor", **config}, (224, 224))


def test_a_second_crop_that_contradicts_the_first_is_refused():
    config = {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": 200,
    }
    with pytest.raises(CheckpointError, match="already crops to"):
        from_processor(config, (200, 200))
