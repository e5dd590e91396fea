import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.builder.precision.histogram import BINS, METHODS, Histogram


def filled(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


@settings(deadline=None)
@given(
    parts=st.lists(
        hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e4, 1e4, width=32)),
        min_size=1,
        max_size=6,
    )
)
def test_a_histogram_counts_every_value_and_keeps_the_largest(parts):
    histogram = filled(*parts)
    everything = np.abs(np.concatenate(parts))
    assert histogram.amax == everything.max()
    assert histogram.limit >= histogram.amax
    assert histogram.counts.sum() == everything.size


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 100), min_size=2, max_size=40), st.randoms())
def test_growing_a_histogram_keeps_its_resolution(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    grown = filled(*([value] for value in shuffled))
    bins = np.searchsorted(np.arange(1, BINS + 1) * grown.limit / BINS, values)
    expected = np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
    # A value on the edge of two bins may be counted in either.
    assert np.abs(np.cumsum(grown.counts - expected)).max() <= len(values)
    assert grown.counts.sum() == len(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        filled([1.0, bad])


NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.float32([200.0])])


def test_minmax_is_the_largest_value():
    assert METHODS["minmax"](filled(NORMAL)) == np.abs(NORMAL).max()


def test_percentile_clips_its_share():
    reach = METHODS["percentile"](filled(NORMAL))
    assert (np.abs(NORMAL) > reach).mean() == pytest.approx(1e-4, rel=0.3)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_outlier_does_not_set_the_range(method):
    assert METHODS[method](filled(OUTLIERS)) < 25


def quantisation_error(values, reach):
    scale = reach / 127
    return ((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).mean()


@pytest.mark.parametrize("values", [NORMAL, OUTLIERS, np.abs(NORMAL) ** 3])
def test_mse_is_the_best_of_all_ranges(values):
    ours = quantisation_error(values, METHODS["mse"](filled(values)))
    best = min(
        quantisation_error(values, reach)
        for reach in np.abs(values).max() * np.linspace(0.05, 1, 96)
    )
    assert ours <= best * 1.05


@settings(deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-50, 50, width=32)),
    method=st.sampled_from(sorted(METHODS)),
)
def test_a_range_is_positive_and_never_beyond_the_largest_value(values, method):
    histogram = filled(values)
    if histogram.amax > 1e-19:
        assert 0 < METHODS[method](histogram) <= histogram.amax * 1.0001
