"""The benchmark of preprocessing: it times nothing whose bytes are wrong, and measures what is."""

import json

import pytest

from scripts.bench import preprocess as bench


def test_what_is_not_the_processors_bytes_is_not_timed(monkeypatch):
    pixels = bench.picture()
    monkeypatch.setattr(bench, "ready", lambda name, compiled: lambda picture: pixels)
    with pytest.raises(SystemExit, match="vit-edge, Pillow does not make the ViT processor's"):
        bench.same_bytes("ViT", pixels, bench.nv12(pixels, "bt709"))


def test_figures_are_json_and_shortcuts_have_errors(monkeypatch):
    monkeypatch.setattr(bench, "first_calls", lambda: {"RGB, warm": {"import_s": 0.1}})
    figures = json.loads(json.dumps(bench.measure(rounds=1)))
    for name in ("ViT", "CLIP"):
        rows = figures["times"][name]
        assert rows[bench.PEER]["ratio"] == 1
        assert figures["ratios"][name]["pillow_of_transformers"] == rows[bench.PILLOW]["ratio"]
        errors = figures["errors"][name]
        assert len(errors) == 8
        assert all(0 < row["mean"] < row["max"] for row in errors.values())
        # Without a filter before it, bilinear skips most pixels: far worse than an area.
        assert errors["cv2.INTER_LINEAR"]["mean"] > 2 * errors["cv2.INTER_AREA"]["mean"]


def test_a_first_picture_is_timed_in_a_process_of_its_own(tmp_path):
    spec = bench.ready("ViT", compiled=False).spec.to_dict()
    found = bench.first_call(spec, "NV12", False, str(tmp_path))
    assert set(found) == {"import", "call"}
    assert found["call"] > 0
