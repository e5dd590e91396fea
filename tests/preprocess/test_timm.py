"""The tensors equal those of timm's own transform of a PIL image, byte for byte."""

import json
import os

import pytest

from edge.preprocess.cpu import Preprocessor
from edge.preprocess.timm_config import from_timm
from tests.preprocess import timm_reference


@pytest.mark.slow
def test_same_bytes_as_timm(tmp_path):
    """All in one test, for one process of timm's: it takes seconds to be imported."""
    expected = timm_reference.expected(tmp_path)
    pictures = timm_reference.pictures()
    compared, wrong = 0, []
    for config_name, config in timm_reference.CONFIGS.items():
        # As it is read from a checkpoint's config.json.
        spec = from_timm(json.loads(json.dumps(config)))
        for compiled in (False, True):
            ready = Preprocessor(spec, compiled=compiled)
            for name, pixels in pictures.items():
                theirs = expected[f"{config_name}/{name}"]
                ours = ready(pixels)
                compared += 1
                if ours.tobytes() != theirs.tobytes():
                    engine = "numba" if compiled else "Pillow"
                    differ = (ours != theirs).sum() if ours.shape == theirs.shape else ours.shape
                    wrong.append(f"{config_name} with {engine}, {name}: {differ} values")
    assert wrong == []
    assert compared == 2 * len(expected) > 500


def test_the_pictures_put_crops_and_sizes_between_two_pixels():
    """Else the rounding of halves would not be compared."""
    halves = set()
    for config in timm_reference.CONFIGS.values():
        spec = from_timm(config)
        for height, width in timm_reference.SIZES.values():
            resized = spec.place(height, width).resized
            beside = [(have - want) / 2 for have, want in zip(resized, spec.crop, strict=True)]
            halves |= {("crop", half % 2) for half in beside if half > 0}
            if spec.resize.how in ("cover", "contain"):
                ratios = height / spec.resize.height, width / spec.resize.width
                ratio = min(ratios) if spec.resize.how == "cover" else max(ratios)
                halves |= {(spec.resize.how, side / ratio % 2) for side in (height, width)}
    assert {(what, half) for what in ("crop", "cover", "contain") for half in (0.5, 1.5)} <= halves


def test_timm_that_cannot_be_installed_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(timm_reference, "FOLDER", tmp_path / "build" / "timm")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match=r"timm==.* cannot be installed"):
        timm_reference.install()
    assert not timm_reference.FOLDER.exists()
