"""The comparison of quantisers: outliers keep the function, and every outcome has a row."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.bench import outliers, quantizers
from scripts.bench import quantize as bench

pytestmark = pytest.mark.slow


def activations(folder, pictures):
    """Largest output per channel of each LayerNorm and value projection of the blocks."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    peaks = {}

    def watch(name):
        def hook(_, __, out):
            peaks[name] = out.abs().amax((0, 1)).numpy()

        return hook

    for name, module in model.named_modules():
        if name.endswith(("layernorm_before", "layernorm_after", "value", "v_proj")):
            module.register_forward_hook(watch(name))
    with torch.inference_mode():
        model(pixel_values=torch.from_numpy(pictures))
    return peaks


@pytest.fixture
def biased(checkpoint, tmp_path):
    """The tiny checkpoint with random biases; transformers initialises them with 0."""
    from safetensors.numpy import load_file, save_file

    path = shutil.copytree(checkpoint, tmp_path / "biased") / "model.safetensors"
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.2, value.shape).astype(np.float32) if "bias" in name else value
        for name, value in load_file(path).items()
    }
    save_file(weights, path, {"format": "pt"})
    return path.parent


def test_outliers_are_injected_and_logits_stay_the_same(biased, tmp_path):
    pictures = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    outliers.inject(biased, tmp_path / "outliers", 40, 20)
    assert outliers.check_preserved(biased, tmp_path / "outliers", pictures) < 1e-4
    before = activations(biased, pictures)
    after = activations(tmp_path / "outliers", pictures)
    assert len(before) == 2 * 3  # blocks
    for name, reach in before.items():
        factor = 40 if "layernorm" in name else 20
        grown = np.sort(after[name] / reach)
        assert grown[:-3] == pytest.approx(1, rel=1e-3)
        assert grown[-3:] == pytest.approx(factor, rel=1e-3)


def test_a_changed_function_is_detected(checkpoint, tmp_path):
    """A bias that is not scaled with its weight."""
    from safetensors.numpy import load_file, save_file

    pictures = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    outliers.inject(checkpoint, tmp_path / "broken", 40)
    path = tmp_path / "broken/model.safetensors"
    weights = load_file(path)
    weights["vit.encoder.layer.0.layernorm_after.bias"] += 0.1
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(AssertionError, match="differs"):
        outliers.check_preserved(checkpoint, tmp_path / "broken", pictures)


@pytest.fixture
def evaluator(fp32_graph, pictures):
    from edge.builder import graph, image_sets

    return bench.Evaluator(graph.load(fp32_graph), image_sets.find(pictures))


@pytest.fixture
def job(fp32_graph, pictures, tmp_path):
    def make(quantiser, method):
        prepared, out = tmp_path / "calibration.npy", tmp_path / "int8.onnx"
        return quantizers.Job(
            quantiser, method, str(fp32_graph), str(pictures), str(prepared), str(out)
        )

    return make


@pytest.mark.parametrize(
    ("quantiser", "method"), [("vit-edge", "minmax"), ("onnxruntime, Linears", "MinMax")]
)
def test_a_quantiser_gets_a_row_with_figures(job, evaluator, quantiser, method):
    row = bench.measure("tiny", job(quantiser, method), sys.executable, "", evaluator)
    assert (row.model, row.quantiser, row.method, row.error) == ("tiny", quantiser, method, None)
    assert 15 < row.sqnr_db < 60
    assert 50 <= row.agreement <= 100
    assert row.seconds > 0
    assert 30 < row.peak_mb < 1000


def test_a_quantiser_that_fails_gets_a_row_with_its_error(job, evaluator):
    row = bench.measure("tiny", job("vit-edge", "guess"), sys.executable, "", evaluator)
    assert "guess" in row.error
    assert (row.sqnr_db, row.agreement, row.seconds, row.peak_mb) == (None,) * 4


def test_a_quantiser_that_is_killed_gets_a_row(job, evaluator, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    row = bench.measure("tiny", job("ModelOpt", "max"), str(python), "", evaluator)
    assert "SIGKILL" in row.error


def test_a_graph_that_cannot_run_keeps_time_and_memory_in_its_row(job, evaluator, monkeypatch):
    def run_job(job, python):
        Path(job.out).write_bytes(b"no graph")
        return quantizers.Outcome(seconds=1.234, peak_mb=99.6)

    monkeypatch.setattr(bench, "run_job", run_job)
    row = bench.measure("tiny", job("ModelOpt", "max"), sys.executable, "", evaluator)
    assert row.error.startswith("cannot be run")
    assert (row.seconds, row.peak_mb, row.sqnr_db) == (1.23, 100, None)


def test_a_quantiser_that_cannot_be_installed_has_the_reason_in_row_and_table(job, evaluator):
    row = bench.measure("tiny", job("ModelOpt", "max"), None, "cannot be installed: why", evaluator)
    assert row.error == "cannot be installed: why"
    table = bench.to_table("tiny", [row])
    assert "ModelOpt, max: cannot be installed: why" in table.caption


@pytest.mark.slow
def test_an_unfinished_environment_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(quantizers, "MODELOPT", (str(tmp_path / "no-such-wheel.whl"),))
    (tmp_path / "venv").mkdir()
    peer = quantizers.modelopt_environment(tmp_path / "venv")
    assert peer.python is None
    assert "no-such-wheel" in peer.why_none
    assert not (tmp_path / "venv/.ready").exists()


def test_every_combination_has_a_quantiser():
    pairs = list(bench.combinations(["mse"]))
    assert pairs[0] == ("vit-edge", "mse")
    assert len(pairs) == len(set(pairs)) == 9
    assert {quantiser for quantiser, _ in pairs} == set(quantizers.QUANTISERS)


def test_an_unknown_method_is_reported_in_one_line():
    with pytest.raises(SystemExit, match=r"error: no method guess; choose of: .*minmax"):
        bench.our_methods("minmax,guess")


def test_a_row_can_be_written_as_json():
    row = bench.to_row(
        "tiny", quantizers.Job("ModelOpt", "max", *"abcd"), quantizers.Outcome(2.0, 3.0), None
    )
    assert json.loads(json.dumps(bench.asdict(row)))["peak_mb"] == 3
