"""timm configurations: unsupported values are refused. Bytes are compared in test_timm."""

import pytest

from edge.errors import CheckpointError
from edge.preprocess.spec import Resize
from edge.preprocess.timm_config import from_timm


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_size": [1, 224, 224]}, "1 channels"),
        ({"crop_mode": "random"}, "crop_mode 'random'"),
        ({"interpolation": "hamming"}, "interpolation 'hamming'"),
        ({"mean": [0.5]}, "1 values in mean"),
        ({"crop_pct": "x"}, "pretrained_cfg"),
        ({"input_size": 224}, "pretrained_cfg"),
    ],
)
def test_an_unsupported_timm_value_is_refused_by_name(change, named):
    with pytest.raises(CheckpointError) as caught:
        from_timm(change)
    assert named in caught.value.problem


def test_timm_defaults():
    spec = from_timm({})
    assert (spec.resize, spec.crop) == (Resize("shortest_edge", 256, 256), (224, 224))
    assert (spec.resample, spec.crop_rounding) == (3, "even")
    assert spec.mean == (0.485, 0.456, 0.406)
