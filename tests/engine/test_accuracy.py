"""The gate counts images; each figure of several forms is the lowest."""

from __future__ import annotations

import pytest

from edge.engine.accuracy import Accuracy, Gate, images_needed, lowest, percent


@pytest.mark.parametrize(("top1", "passes"), [(90.0, True), (89.5, True), (89.4, False)])
def test_the_gate_limits_the_loss_of_top_1(top1, passes):
    measured = {"portable": Accuracy(1000, 100.0, 30.0, 0.1, top1, 90.0)}
    why = Gate(99, 0.5).refuses(measured)
    assert (why is None) == passes
    assert passes or "model.onnx loses 0.60 points of top-1 on 1000 images, 0.5 are allowed" in why
    unknown = {"portable": Accuracy(1000, 100.0, 30.0, 0.1, None, None)}
    assert Gate(99, 0.5).refuses(unknown) is None


@pytest.mark.parametrize(
    ("images", "differing", "gate", "passes"),
    [
        (26, 0, 99, True),
        (26, 1, 99, False),
        (26, 1, 100, False),
        (1, 1, 99, False),
        (8, 1, 99, False),
        (400, 4, 99, True),
        (400, 5, 99, False),
        (397, 3, 99, True),
        (397, 1, 99.5, True),
        (397, 2, 99.5, False),
    ],
)
def test_the_gate_counts_whole_images(images, differing, gate, passes):
    agreement = 100 * (images - differing) / images
    measured = Accuracy(images, agreement, 30.0, 0.1, None, None)
    assert (Gate(gate, None).refuses({"portable": measured}) is None) == passes


@pytest.mark.parametrize(
    ("images", "differing"), [(397, 4), (101, 2), (60, 1), (25_000, 251), (1_000_000, 10_001)]
)
def test_a_gate_of_99_percent_is_never_rounded_down(images, differing):
    agreement = 100 * (images - differing) / images
    measured = Accuracy(images, agreement, 30.0, 0.1, None, None)
    assert agreement < 99
    why = Gate(99, None).refuses({"portable": measured})
    assert why is not None
    assert "on 99.00 %" not in why


@pytest.mark.parametrize(
    ("images", "agreeing", "low", "high"),
    [  # as scipy's binomtest(...).proportion_ci(method="wilson") gives them
        (100, 100, 96.3007, 100.0),
        (397, 393, 97.4383, 99.6075),
        (20, 10, 29.9298, 70.0702),
        (60, 0, 0.0, 6.0172),
        (1, 1, 20.6549, 100.0),
    ],
)
def test_the_interval_is_wilsons(images, agreeing, low, high):
    measured = Accuracy(images, 100 * agreeing / images, 30.0, 0.1, None, None)
    assert measured.interval == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("agreement", [50.0, 90.0, 99.0, 99.9])
def test_the_images_needed_are_the_fewest_that_show_an_agreement(agreement):
    def shown(images):
        return Accuracy(images, 100.0, 30.0, 0.1, None, None).interval[0]

    needed = images_needed(agreement)
    assert shown(needed) >= agreement - 1e-9 > shown(needed - 1)


def test_each_figure_is_the_lowest_of_all_forms():
    portable = Accuracy(100, 95.0, 20.0, 0.5, 90.0, 92.0, 0.991, 97.0)
    device = Accuracy(100, 94.0, 30.0, 0.1, 91.0, 92.0, 0.996, 98.0)
    found = lowest({"portable": portable, "device": device})
    assert found == Accuracy(100, 94.0, 20.0, 0.5, 90.0, 92.0, 0.991, 97.0)
    unknown = Accuracy(100, 99.0, 40.0, 0.1, None, None)
    assert lowest({"portable": unknown}) == unknown


@pytest.mark.parametrize(
    ("share", "text"),
    [(99.999, "99.99 %"), (100.0, "100.00 %"), (0.0, "0.00 %"), (29.0, "29.00 %")],
)
def test_a_percentage_is_rounded_down(share, text):
    assert percent(share) == text
