"""Further places and FP8: off by default, within the rules, and accepted by TensorRT."""

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto

from edge.builder import compile as compiling
from edge.builder import graph, verify
from edge.builder.plan import make_forms
from edge.builder.precision import fp16, placement
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.dtypes import FP8, INT8
from edge.builder.precision.ranges import Ranges
from edge.engine.compare import compare
from edge.errors import GraphError
from tests.conftest import needs_rtx

# dB on random weights: E4M3 has 3 bits of mantissa, a tenth of INT8's resolution near the top.
LEAST = {"int8": 20, "fp8": 10}
EVERY = [[place] for place in placement.PLACES] + [placement.PLACES]
# What each place quantises in a graph of two blocks, beside the 8 Linears.
MORE = {
    "attention": {"MatMul": 4},
    "patch": {"Conv": 1},
    "head": {"Gemm": 1},
    "residual": {"Add": 4},
}


@pytest.fixture(scope="module")
def setting(fp32_graph):
    model = graph.load(fp32_graph)
    x = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    return model, Ranges("auto", 24, "", calibrate(model, iter(x[:24]), "auto", 24)), x


def forms_of(setting, precision, also=()):
    model, ranges, x = setting
    return make_forms(model, precision, ranges, (), also, lambda m: fp16.peaks(m, iter(x[:8])))


def quality(setting, forms):
    model, _, x = setting
    logits = verify.outputs({"reference": model, **forms}, x[24:])
    return {f: compare(logits["reference"], logits[f], None).sqnr_db for f in forms}


def quantised(model):
    """How many nodes of each kind read two dequantised inputs."""
    restored = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return Counter(n.op_type for n in model.graph.node if {*n.input[:2]} <= restored)


@pytest.mark.parametrize("also", EVERY)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_place_is_quantised_within_the_rules(setting, also, precision):
    forms = forms_of(setting, precision, also)
    assert placement.places(forms["portable"]) == sorted(also)
    assert placement.check(forms["portable"]) == placement.check(forms["device"]) == 8
    expected = sum((Counter(MORE[place]) for place in also), Counter(MatMul=8))
    assert quantised(forms["portable"]) == quantised(forms["device"]) == expected
    assert min(quality(setting, forms).values()) > LEAST[precision]


@needs_rtx
@pytest.mark.parametrize("also", [[], *EVERY])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_accepts_every_place(setting, tmp_path, also, precision):
    forms = forms_of(setting, precision, also)
    graph.save(forms["device"], tmp_path / "m.onnx")
    options = {"input_shape": (3, 32, 32), "max_batch": 2, "cache": tmp_path}
    made = compiling.compile_plan(
        tmp_path / "m.onnx", "tensorrt-rtx", progress=lambda *_: None, **options
    )
    assert len(made.data) > 10_000


def test_fp8_stores_fp8_and_stays_near(setting):
    forms = forms_of(setting, "fp8")
    types = [tensor.data_type for tensor in forms["portable"].graph.initializer]
    assert types.count(TensorProto.FLOAT8E4M3FN) == 3 * 8  # weights, zeros of both kinds
    assert min(quality(setting, forms).values()) > LEAST["fp8"]


def test_a_place_that_was_not_requested_is_named(setting):
    portable = forms_of(setting, "int8", ["patch"])["portable"]
    data = graph.metadata(portable)
    graph.set_metadata(portable, {**data, "placements": []})
    with pytest.raises(GraphError, match="feeds Conv"):
        placement.check(portable)


@pytest.mark.parametrize("number", [INT8, FP8])
def test_numbers_are_stored_to_the_nearest_and_saturate(number):
    values = np.linspace(-3, 3, 1001, dtype=np.float32)
    scale = number.scale(2.0)
    back = number.store(values, scale).astype(np.float32) * scale
    assert np.abs(back).max() == pytest.approx(2.0, rel=1e-6)
    inside = np.abs(values) <= 2
    step = 1 / 127 + 1e-6 if number is INT8 else 2 / 16
    assert np.abs(back - values)[inside].max() <= step
