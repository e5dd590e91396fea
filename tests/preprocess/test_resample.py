"""Resampling tables: equal to Pillow, to the byte, for any part of an axis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.preprocess.resample import PRECISION, taps

FILTERS = range(4)  # nearest, lanczos, bilinear, bicubic


def resample(line, table):
    """A line of pixels, int64 [n], through a table."""
    out = []
    for first, count, weights in zip(table.first, table.count, table.weights, strict=True):
        total = (line[first : first + count] * weights[:count]).sum() + (1 << PRECISION - 1)
        out.append(min(max(total >> PRECISION, 0), 255))
    return out


@settings(max_examples=200, deadline=None)
@given(
    source=st.integers(1, 700),
    target=st.integers(1, 700),
    filter_=st.sampled_from(FILTERS),
    data=st.data(),
)
def test_any_part_of_any_axis_equals_pillow_s_result(source, target, filter_, data):
    start = data.draw(st.integers(0, target - 1))
    length = data.draw(st.integers(1, target - start))
    line = np.random.default_rng(source).integers(0, 256, source, np.uint8)
    expected = np.asarray(Image.fromarray(line[None]).resize((target, 1), filter_))[0]
    found = resample(line.astype(np.int64), taps(source, target, filter_, start, length))
    assert found == expected[start : start + length].tolist()


@pytest.mark.parametrize("filter_", [1, 2, 3])
def test_a_table_reads_only_existing_pixels(filter_):
    for source, target in ((1, 9), (9, 1), (20000, 224), (3, 224)):
        table = taps(source, target, filter_, 0, target)
        first, last = table.span
        assert first == 0
        assert last == source
        assert (table.count >= 1).all()


def test_a_flat_line_stays_flat():
    table = taps(1080, 224, 1, 0, 224)
    assert set(resample(np.full(1080, 200), table)) == {200}
