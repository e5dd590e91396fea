import json

import numpy as np
import pytest

from edge.builder import graph, verify
from edge.builder.precision import sensitivity
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.quantize import to_qdq
from edge.builder.precision.sites import linears
from edge.engine.compare import compare


@pytest.fixture(scope="module")
def setting(fp32_graph):
    model = graph.load(fp32_graph)
    x = np.random.default_rng(0).standard_normal((24, 3, 32, 32)).astype(np.float32)
    return model, calibrate(model, iter(x), "auto", 24), list(x[:3])


def test_equals_the_sqnr_of_a_graph_with_this_one_linear_in_int8(setting):
    model, ranges, pictures = setting
    steps = []
    measured = sensitivity.measure(model, ranges, pictures, lambda *step: steps.append(step))
    names = [linear.node.name for linear in linears(model)]
    assert list(measured) == names
    assert steps[-1] == ("Linears alone", 24, 24)
    for name in (names[0], names[3], names[5]):
        alone = to_qdq(model, ranges, kept=[other for other in names if other != name])
        logits = verify.outputs({"reference": model, "alone": alone}, pictures)
        expected = compare(logits["reference"], logits["alone"], None).sqnr_db
        assert measured[name] == pytest.approx(expected, abs=0.3)


def test_survives_its_file(setting, tmp_path):
    measured = {"MatMul_0": 41.25, "MatMul_2": 999.0}
    sensitivity.write(tmp_path / "s.json", measured)
    assert json.loads((tmp_path / "s.json").read_text()) == measured
