"""What an engine's numbers mean: probabilities as Hugging Face's pipelines give them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.heads import FEATURES, ZERO_SHOT, Head

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-200, 200, width=32))


@given(LOGITS)
def test_softmax_and_sigmoid_are_torch_s(logits):
    several, one = Head(labels=("a",) * 4, activation="sigmoid"), Head(labels=("a",) * 4)
    expected = torch.from_numpy(logits)
    np.testing.assert_allclose(several.probabilities(logits), expected.sigmoid(), atol=1e-6)
    np.testing.assert_allclose(one.probabilities(logits), expected.softmax(-1), atol=1e-6)
    assert one.probabilities(logits).dtype == several.probabilities(logits).dtype == np.float32


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"task": FEATURES, "labels": ("a",)},
        {"task": FEATURES},
        {"task": FEATURES, "activation": "none"},
        {"labels": ("a",), "pooling": "cls"},
        {"labels": ("a",), "activation": "none"},
        {"labels": ("a",), "templates": ("{}",)},
        {"labels": ("a",), "task": ZERO_SHOT},
    ],
)
def test_what_no_build_makes_is_refused(odd):
    with pytest.raises(ValueError, match="for "):
        Head(**odd)


def test_the_output_is_named_by_the_task():
    assert Head(labels=("a",)).output == "logits"
    assert Head(FEATURES, (), "none", "cls").output == "embedding"
