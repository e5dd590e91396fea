"""The GPU's benchmark, on the stand-in driver: it runs, and what is absent is named."""

from __future__ import annotations

import json
import os
from contextlib import closing

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.gpu.device import Device
from edge.preprocess import cuda as cuda_preprocess
from scripts.bench import gpu as bench_gpu
from scripts.gpu import models as gpu_models
from tests.cuda_driver.standin import BUILD, emulated
from tests.engine.test_gpu_path import opened
from tests.preprocess.kernel.build import compiled

pytestmark = pytest.mark.slow

SMALL = (32, 18)


@emulated
def test_the_kernel_is_timed_beside_a_copy(driver):
    library = compiled(BUILD)
    cuda_preprocess.kernel_image = lambda *_: os.fsencode(library)  # type: ignore[assignment]
    with closing(Device()) as device:
        bench_gpu.COPY = 1 << 12
        found = bench_gpu.kernel_alone(device, 2, SMALL, 8)
    for batch in (1, 8):
        row = found[f"batch {batch}"]
        assert row["bytes"] == batch * (32 * 18 * 3 // 2 + 3 * 224 * 224 * 2)
        assert set(row["ms"]) == {"kernel"}
        assert "sees no GPU" in row["absent"]["torch, torchvision, CV-CUDA"]


@emulated
def test_networks_take_turns(driver, built_engine):
    with opened(driver, built_engine) as (on_gpu, _, _):
        found = dict(bench_gpu.networks({"int8": on_gpu}, 2, SMALL))
        assert set(found) == {"batch 1", "batch 2", "batch 4"}  # the engine takes no more
        for row in found.values():
            names = {"vit-edge INT8, frame to top-5", "vit-edge INT8, network alone"}
            assert set(row["ms"]) == names
            assert row["stages_ms"]["int8"]["gpu_network"] > 0
            assert "sees no GPU" in row["absent"]["torch"]


def test_a_part_that_fails_is_named_and_the_others_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_gpu.nvidia, "gpu", lambda: None)
    found = bench_gpu.measure(tmp_path, 1, 1, lambda _: None)
    assert found["gpu"] is None
    assert found["kernel"]["failed"]
    assert {"failed"} <= set(found["networks"]["fp16"])


def test_figures_are_kept_after_each_part_and_torch_compile_is_the_last(monkeypatch, tmp_path):
    saved, order = [], []

    def networks(engines, rounds, compiled):
        order.append(compiled)
        yield "batch 1", {"ms": {"network": 1.0}}
        if compiled:
            raise KeyboardInterrupt  # as when it is stopped

    monkeypatch.setattr(bench_gpu, "networks", networks)
    with pytest.raises(KeyboardInterrupt):
        bench_gpu.measure(tmp_path, 1, 1, lambda found: saved.append(json.dumps(found)))
    assert order == [False, True]
    parts = [sorted(json.loads(text).get("networks", ())) for text in saved]
    assert parts[:3] == [[], ["fp16"], ["fp16", "int8"]]
    last = json.loads(saved[-1])
    assert last["kernel"]
    row = {"batch 1": {"ms": {"network": 1.0}}}
    assert last["networks"]["side by side"] == last["networks"]["beside torch.compile"] == row


def test_emptied_weights_come_back_with_their_size_and_spread():
    rng = np.random.default_rng(0)
    arrays = {
        "half": (0.5 + 0.02 * rng.standard_normal((100, 100))).astype(np.float16),
        "int8": rng.integers(-50, 50, (100, 100), np.int8),
        "small": rng.standard_normal(10).astype(np.float32),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    emptied = gpu_models.emptied(model).SerializeToString()
    assert len(emptied) < 1000
    first, again = (gpu_models.filled(onnx.ModelProto.FromString(emptied)) for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()
    for tensor in first.graph.initializer:
        found, before = numpy_helper.to_array(tensor), arrays[tensor.name]
        assert (found.shape, found.dtype) == (before.shape, before.dtype)
        spread = before.astype(float).std()
        assert abs(found.astype(float).std() - spread) < 0.05 * spread
        assert abs(found.astype(float).mean() - before.astype(float).mean()) < 0.05 * spread
