"""The audit's reference conversion to RGB: exact, and independent of the fast implementations."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.preprocess import reference
from edge.preprocess.colour import to_rgb
from edge.preprocess.reference import rgb_by_the_standard
from edge.preprocess.surface import FORMATS, Surface
from tests.preprocess.pictures import COLOURS, by_the_book, noise

YUV = [name for name, form in FORMATS.items() if not form.is_rgb]


@pytest.mark.parametrize("form", YUV)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 33), (20, 130)])
def test_every_level_is_the_rounded_result_of_the_formula(form, size):
    for colour in COLOURS:
        surface = noise(form, *size, colour, padding=5)
        error = np.abs(rgb_by_the_standard(surface) - by_the_book(surface))
        assert error.max() <= 0.5 + 1e-9


@pytest.mark.parametrize("form", FORMATS)
def test_the_integer_formula_is_within_one_level(form):
    surface = noise(form, 61, 45, padding=3)
    error = np.abs(rgb_by_the_standard(surface).astype(int) - to_rgb(surface))
    assert error.max() <= (0 if FORMATS[form].is_rgb else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_surface_is_converted_upright(orientation):
    stored = noise("RGB", 7, 5)
    turned = Surface(replace(stored.layout, orientation=orientation), stored.planes)
    assert np.array_equal(rgb_by_the_standard(turned), to_rgb(turned))


def test_no_arithmetic_is_shared():
    """Only the formats' table is: where the samples lie is no arithmetic."""
    tree = ast.parse(Path(reference.__file__).read_text())
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {(node.module, name.name) for node in taken for name in node.names}
    assert {pair for pair in ours if str(pair[0]).startswith("edge")} == {
        ("edge.preprocess.surface", "FORMATS"),
        ("edge.preprocess.surface", "Surface"),
    }
