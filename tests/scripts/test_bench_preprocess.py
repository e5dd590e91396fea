"""The preprocessing benchmark times only exact results, and measures the error of others."""

import json

import pytest

from scripts.bench import preprocess as bench


def test_a_result_that_differs_from_the_processors_is_not_timed(monkeypatch):
    pixels = bench.sample_image()
    monkeypatch.setattr(bench, "ready", lambda name, compiled: lambda image: pixels)
    with pytest.raises(SystemExit, match="vit-edge, Pillow does not make the ViT processor's"):
        bench.same_bytes("ViT", pixels, bench.nv12(pixels, "bt709"))


def test_figures_are_json_and_include_the_errors_of_shortcuts(monkeypatch):
    monkeypatch.setattr(bench, "first_calls", lambda: {"RGB, warm": {"import_s": 0.1}})
    figures = json.loads(json.dumps(bench.measure(rounds=1)))
    for name in ("ViT", "CLIP"):
        rows = figures["times"][name]
        assert rows[bench.PEER]["ratio"] == 1
        assert figures["ratios"][name]["pillow_of_transformers"] == rows[bench.PILLOW]["ratio"]
        errors = figures["errors"][name]
        assert len(errors) == 8
        assert all(0 < row["mean"] < row["max"] for row in errors.values())
        # Without a low-pass filter bilinear skips most pixels: far worse than averaging areas.
        assert errors["cv2.INTER_LINEAR"]["mean"] > 2 * errors["cv2.INTER_AREA"]["mean"]


def test_the_first_image_is_timed_in_a_process_of_its_own(tmp_path):
    spec = bench.ready("ViT", compiled=False).spec.to_dict()
    found = bench.first_call(spec, "NV12", False, str(tmp_path))
    assert set(found) == {"import", "call"}
    assert found["call"] > 0
