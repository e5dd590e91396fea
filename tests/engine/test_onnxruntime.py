"""The onnxruntime CPU backend: INT8 products are exact on every CPU."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.engine import onnxruntime
from edge.engine.onnxruntime import Session, products_saturate

VNNI = "flags : fpu avx2 avx512f avx512_vnni"
AVX_VNNI = "flags : fpu avx2 avx_vnni"
AVX2 = "flags : fpu avx2 fma"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Pretend that /proc/cpuinfo says this, on this machine architecture."""

    def pretend(flags: str | None, machine: str = "x86_64") -> bool:
        path = tmp_path / "cpuinfo"
        if flags is not None:
            path.write_text(flags)
        monkeypatch.setattr(onnxruntime.platform, "machine", lambda: machine)
        products_saturate.cache_clear()
        return products_saturate(path)

    yield pretend
    products_saturate.cache_clear()


def test_only_x86_without_vnni_saturates(cpu):
    assert [cpu(flags) for flags in (VNNI, AVX_VNNI, AVX2)] == [False, False, True]
    assert cpu(AVX2, "aarch64") is False


def test_an_unknown_cpu_is_taken_for_one_that_saturates(cpu):
    assert cpu(None) is True


def linear(*, constant: bool) -> bytes:
    """MatMul of two INT8 tensors whose pairs of products exceed 16 bits: 127 * 127 * 2 > 32767."""
    scale = numpy_helper.from_array(np.float32(1), "scale")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    weight = numpy_helper.from_array(np.full((64, 8), 127, np.float32), "w")
    nodes, inputs = [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])]
    if not constant:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 8]))
    for name in ("x", "w"):
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"])
        )
    nodes.append(helper.make_node("MatMul", ["x_dq", "w_dq"], ["y"]))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    initializers = [scale, zero, *([weight] if constant else [])]
    graph = helper.make_graph(nodes, "linear", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("constant", [True, False], ids=["weights", "two activations"])
def test_large_int8_products_are_exact(constant):
    session = Session(linear(constant=constant), threads=1)
    x = np.full((3, 64), 127, np.float32)
    more = None if constant else {"w": np.full((64, 8), 127, np.float32)}
    (found,) = session.run(x, more=more)
    assert np.array_equal(found, np.full((3, 8), 127 * 127 * 64, np.float32))
