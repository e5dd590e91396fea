import numpy as np
import pytest

from edge.builder import graph, verify
from edge.errors import CalibrationError


def test_outputs_are_streamed_in_order(fp32_graph):
    model = graph.load(fp32_graph)
    x = np.random.default_rng(0).standard_normal((verify.BATCH + 3, 3, 32, 32)).astype(np.float32)
    counts = []
    logits = verify.outputs({"a": model, "b": model}, iter(x), counts.append)
    assert counts == [verify.BATCH, 3]
    assert (logits["a"] == logits["b"]).all()
    assert logits["a"] == pytest.approx(graph.session(model).logits(x), abs=1e-5)


def test_no_readable_held_out_image_is_an_error(fp32_graph):
    with pytest.raises(CalibrationError, match="none of the held-out images"):
        verify.outputs({"a": graph.load(fp32_graph)}, iter([]))
