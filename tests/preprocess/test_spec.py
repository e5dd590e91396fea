import json

import pytest

from edge.errors import CheckpointError
from edge.preprocess.spec import Preprocess

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}}


def test_reads_what_a_processor_says():
    spec = Preprocess.from_processor({**VIT, "resample": 3, "image_std": [0.1, 0.2, 0.3]}, (32, 48))
    assert (spec.height, spec.width, spec.resize) == (32, 48, (32, 48))
    assert spec.resample == 3
    assert spec.std == (0.1, 0.2, 0.3)
    assert spec.mean == (0.5, 0.5, 0.5)
    assert spec.scale == pytest.approx(1 / 255)


def test_an_old_feature_extractor_with_a_number_for_its_size():
    config = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32}
    assert Preprocess.from_processor(config, (32, 32)).resize == (32, 32)


def test_steps_that_are_switched_off():
    config = {**VIT, "do_rescale": False, "do_normalize": False}
    spec = Preprocess.from_processor(config, (32, 48))
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
        ({"do_center_crop": True}, "no 'height'"),
        ({"size": {"height": 5.5, "width": 48}}, "5.5"),
        ({"size": "big"}, "'b'"),
        ({"resample": "bicubic"}, "'bicubic'"),
        ({"resample": 9}, "resample 9"),
        ({"rescale_factor": "x"}, "'x'"),
        ({"size": {"height": float("inf"), "width": 48}}, "infinity"),
        ({"size": {"height": 10**9, "width": 48}}, "1 to 8192"),
        ({"image_mean": [10**400, 0, 0]}, "too large"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, named):
    with pytest.raises(CheckpointError) as caught:
        Preprocess.from_processor({**VIT, **change}, (32, 48))
    assert named in caught.value.what


def test_a_key_that_is_off_is_no_obstacle():
    Preprocess.from_processor({**VIT, "do_pad": False, "crop_pct": None}, (32, 48))


def test_survives_the_passport():
    spec = Preprocess.from_processor(VIT, (32, 48))
    assert Preprocess.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
