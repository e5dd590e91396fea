"""`Head`: probabilities equal those of Hugging Face's pipelines, and predictions are compared."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.engine.heads import FEATURES, ZERO_SHOT, Head, labels_agree

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-200, 200, width=32))


@given(LOGITS)
def test_softmax_and_sigmoid_are_torch_s(logits):
    several, one = Head(labels=("a",) * 4, activation="sigmoid"), Head(labels=("a",) * 4)
    expected = torch.from_numpy(logits)
    np.testing.assert_allclose(several.probabilities(logits), expected.sigmoid(), atol=1e-6)
    np.testing.assert_allclose(one.probabilities(logits), expected.softmax(-1), atol=1e-6)
    assert one.probabilities(logits).dtype == several.probabilities(logits).dtype == np.float32


def agree(reference, found, activation="sigmoid"):
    """Whether two probability vectors of one image agree."""
    head = Head(labels=("a",) * len(reference), activation=activation)
    return bool(head.agree(*np.array([reference, found], np.float32)))


def test_softmax_predictions_agree_if_the_most_probable_class_is_the_same():
    assert agree([0.5, 0.3, 0.2], [0.4, 0.2, 0.4], "softmax")
    assert not agree([0.5, 0.3, 0.2], [0.3, 0.5, 0.2], "softmax")


@pytest.mark.parametrize(
    ("reference", "found", "same"),
    [
        ([0.95], [0.05], False),  # one label alone is always the likeliest
        ([0.95], [0.6], True),
        ([0.01], [0.99], False),
        ([0.99, 0.9, 0.1], [0.999, 0.1, 0.9], False),  # the likeliest is the same
        ([0.99, 0.98], [0.98, 0.99], True),  # a yes to both
        ([0.45, 0.9], [0.54, 0.9], True),  # it hovers
        ([0.45, 0.9], [0.56, 0.9], False),
        ([0.01, 0.001], [0.001, 0.01], False),  # a no to all: another one is the likeliest
        ([0.01, 0.008], [0.008, 0.01], True),  # two that are tied
        ([0.01, 0.001], [0.3, 0.2], True),
    ],
)
def test_independent_labels_agree_if_each_has_the_same_yes_or_no(reference, found, same):
    assert agree(reference, found) is same


def test_every_label_is_compared():
    table = np.array([[0.9, 0.2], [0.45, 0.1]], np.float32)
    assert labels_agree(table, table[::-1]).tolist() == [[False, True], [False, True]]


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
def test_an_inconsistent_head_is_refused(odd):
    with pytest.raises(ValueError, match="for "):
        Head(**odd)


def test_the_output_is_named_by_the_task():
    assert Head(labels=("a",)).output == "logits"
    assert Head(FEATURES, (), "none", "cls").output == "embedding"
