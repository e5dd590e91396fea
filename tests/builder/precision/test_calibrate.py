import numpy as np
import pytest
from PIL import Image

from edge.builder import graph, image_sets
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.precision import calibrate as calibrating
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.ranges import Range, Ranges
from edge.builder.precision.sites import linears
from edge.errors import CalibrationError
from edge.preprocess.spec import Preprocess


@pytest.fixture(scope="module")
def model(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def preprocess(checkpoint):
    return read_checkpoint(str(checkpoint)).preprocess


def test_ranges_are_those_of_the_activations(model):
    x = np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)
    ranges = calibrate(model, iter(x), "minmax", 3)
    assert sorted(ranges) == sorted({linear.activation for linear in linears(model)})
    # A LayerNorm with unit gain gives values of a few standard deviations.
    norms = [found.amax for name, found in ranges.items() if "layer_norm" in name]
    assert norms and all(1 < reach < 10 for reach in norms)


@pytest.mark.parametrize("method", ["auto", "minmax"])
def test_pictures_with_nan_are_an_error(model, method):
    x = np.zeros((2, 3, 32, 32), np.float32)
    x[1, 0, 5, 5] = np.nan
    with pytest.raises(CalibrationError, match="calibration image 2"):
        calibrate(model, iter(x), method, 2)


@pytest.mark.parametrize("method", ["auto", "minmax"])
def test_no_picture_is_an_error(model, method):
    with pytest.raises(CalibrationError, match="only 0 images"):
        calibrate(model, iter([]), method, 1)


def test_unreadable_images_are_named_and_skipped(model, preprocess, pictures, tmp_path, recorder):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    files = [bad, *image_sets.find(pictures)[:20]]
    ranges = calibrating.from_images(model, files, preprocess, "mse", recorder)
    assert ranges.images == 20
    assert recorder.warnings == [f"{bad} is not an image"]
    assert ("images", 20, 21) in recorder.steps
    assert recorder.steps[-1] == ("ranges", 8, 8)


def test_too_few_images_are_an_error(model, preprocess, pictures, recorder):
    with pytest.raises(CalibrationError, match=r"only 3 of 3 images .*; add images$"):
        calibrating.from_images(model, image_sets.find(pictures)[:3], preprocess, "mse", recorder)


def folder_of(tmp_path, draw, count=20):
    for number in range(count):
        Image.fromarray(draw(number)).save(tmp_path / f"{number}.png")
    return image_sets.find(tmp_path)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "draw",
    [lambda _: noise(0), lambda n: np.full((32, 32, 3), n, np.uint8), lambda n: noise(n) // 32],
    ids=["same", "plain", "almost black"],
)
def test_equal_or_one_colour_images_are_an_error(model, preprocess, tmp_path, recorder, draw):
    files = folder_of(tmp_path, draw)
    with pytest.raises(CalibrationError, match=r"only [01] of 20 images are different and not of"):
        calibrating.from_images(model, files, preprocess, "auto", recorder)


def test_dark_images_can_calibrate(model, preprocess, tmp_path, recorder):
    files = folder_of(tmp_path, lambda n: noise(n) // 16)
    assert calibrating.from_images(model, files, preprocess, "minmax", recorder).images == 20


def test_copies_of_one_image_count_once(model, preprocess, tmp_path, recorder):
    for number in range(20):
        Image.fromarray(noise(0)).save(tmp_path / f"{number}.png", compress_level=number % 10)
    with pytest.raises(CalibrationError, match="only 1 of 20 images are different"):
        calibrating.from_images(model, image_sets.find(tmp_path), preprocess, "minmax", recorder)


def test_images_that_are_nan_after_preprocessing_are_an_error(
    model, checkpoint, tmp_path, recorder, monkeypatch
):
    """A processor with such numbers is refused when it is read; this is the last guard."""
    files = folder_of(tmp_path, noise)
    broken = read_checkpoint(str(checkpoint)).preprocess
    monkeypatch.setattr(Preprocess, "table", lambda _: np.full((3, 256), np.nan, np.float32))
    with pytest.raises(CalibrationError, match=r"0\.png is NaN or infinity"):
        calibrating.from_images(model, files, broken, "minmax", recorder)


def test_samples_do_not_grow_with_the_images(model, monkeypatch):
    monkeypatch.setattr(calibrating, "SAMPLE_TOKENS", 40)
    kept, fit = [], calibrating.range_search.fit

    def spy(sample, *rest, **options):
        kept.append(sample)
        return fit(sample, *rest, **options)

    monkeypatch.setattr(calibrating.range_search, "fit", spy)
    for count in (8, 32, 400):
        x = np.random.default_rng(1).standard_normal((count, 3, 32, 32)).astype(np.float32)
        calibrate(model, iter(x), "auto", count)
    sizes = [sum(len(sample.fold(fold)) for fold in range(4)) for sample in kept]
    assert sizes[0] == 40
    assert min(sizes) >= 30 and max(sizes) <= 44


def test_ranges_survive_their_file(tmp_path):
    found = Range(1.25, "mse", 2.0, 2.0, 0.5, (1.0, 2.0), 0.5, (0.1, 0.2), (0.0, 0.1), (1.0,), 40.0)
    ranges = Ranges("mse", 20, "ab", {"x": found})
    ranges.write(tmp_path / "ranges.json")
    assert Ranges.read(tmp_path / "ranges.json") == ranges


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[" * 100_000,
        '{"schema": 1}',
        '{"schema": 2, "method": "mse", "images": 1, "set_sha256": "", "ranges": {"x": "a"}}',
        '{"schema": 2, "method": "mse", "images": 1, "set_sha256": "", "ranges": '
        '{"x": {"amax": 0, "method": "mse", "before": 1, "largest": 1}}}',
    ],
)
def test_a_file_without_ranges_is_refused(tmp_path, text):
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(CalibrationError, match="is not a range table"):
        Ranges.read(tmp_path / "ranges.json")
