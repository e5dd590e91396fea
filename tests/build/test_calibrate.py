import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge import cli
from edge.build import calibrate as calibrating
from edge.build import graph, images, quantize
from edge.build.calibrate import METHODS, Histogram, calibrate
from edge.build.checkpoint import read_checkpoint
from edge.build.ranges import Ranges
from edge.errors import CalibrationError


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
def test_a_histogram_counts_every_value_and_knows_the_largest(parts):
    histogram = filled(*parts)
    everything = np.abs(np.concatenate(parts))
    assert histogram.amax == everything.max()
    assert histogram.limit >= histogram.amax
    assert histogram.counts.sum() == everything.size


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 100), min_size=2, max_size=40), st.randoms())
def test_a_histogram_is_as_fine_after_it_grew(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    grown = filled(*([value] for value in shuffled))
    bins = np.searchsorted(
        np.arange(1, calibrating.BINS + 1) * grown.limit / calibrating.BINS, values
    )
    expected = np.bincount(np.minimum(bins, calibrating.BINS - 1), minlength=calibrating.BINS)
    # A value on the edge of two bins may be counted in either.
    assert np.abs(np.cumsum(grown.counts - expected)).max() <= len(values)
    assert grown.counts.sum() == len(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        filled([1.0, bad])


NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.float32([200.0])])


def test_minmax_is_the_largest_value():
    assert METHODS["minmax"](filled(NORMAL)) == np.abs(NORMAL).max()


def test_percentile_leaves_out_its_share():
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


def test_the_command_offers_every_method():
    assert sorted(method.value for method in cli.Method) == sorted(METHODS)


@pytest.fixture(scope="module")
def model(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def preprocess(checkpoint):
    return read_checkpoint(str(checkpoint)).preprocess


def test_ranges_are_those_of_the_activations(model):
    x = np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)
    counted = []
    ranges = calibrate(model, iter(x), "minmax", lambda: counted.append(1))
    assert sorted(ranges) == sorted({linear.activation for linear in quantize.linears(model)})
    assert len(counted) == 3
    # A LayerNorm with unit gain gives values of a few standard deviations.
    norms = [reach for name, reach in ranges.items() if "layer_norm" in name]
    assert norms and all(1 < reach < 10 for reach in norms)


def test_pictures_with_nan_are_an_error(model):
    x = np.zeros((2, 3, 32, 32), np.float32)
    x[1, 0, 5, 5] = np.nan
    with pytest.raises(CalibrationError, match="calibration image 2"):
        calibrate(model, iter(x), "minmax")


def test_no_picture_is_an_error(model):
    with pytest.raises(CalibrationError, match="no image"):
        calibrate(model, iter([]), "minmax")


def test_unreadable_images_are_named_and_skipped(model, preprocess, pictures, tmp_path, recorder):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    files = [bad, *images.find(pictures)[:20]]
    ranges = calibrating.from_images(model, files, preprocess, "mse", recorder)
    assert ranges.images == 20
    assert recorder.warnings == [f"{bad} is not a picture"]
    assert recorder.steps[-1] == ("images", 20, 21)


def test_too_few_images_are_an_error(model, preprocess, pictures, recorder):
    with pytest.raises(CalibrationError, match="only 3 of 3 images could be read, 16 are needed"):
        calibrating.from_images(model, images.find(pictures)[:3], preprocess, "mse", recorder)


def test_ranges_survive_their_file(tmp_path):
    ranges = Ranges("mse", 20, "ab", {"x": 1.25})
    ranges.write(tmp_path / "ranges.json")
    assert Ranges.read(tmp_path / "ranges.json") == ranges


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2}', '{"schema": 1, "ranges": {"x": "a"}}'])
def test_a_file_that_holds_no_ranges_is_refused(tmp_path, text):
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(CalibrationError, match="is no range table"):
        Ranges.read(tmp_path / "ranges.json")
