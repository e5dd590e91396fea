"""Choosing a precision, and the verdict on it; the gate and the timing are scripted."""

import re
from dataclasses import replace

import numpy as np
import pytest

from edge.builder import candidates, graph
from edge.builder.candidates import Candidate
from edge.builder.plan import make_forms
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.ranges import Ranges
from edge.engine.accuracy import Accuracy, Gate
from edge.engine.timing import Timing
from tests.conftest import Recorder

GOOD = Accuracy(400, 99.75, 38.0, 0.1, 96.0, 96.5)
GATE = Gate(99, None)
AGREEMENT = "agreement 99.75 % of 400 images (95 % interval: 98.6 to 100.0 %)"


def clock(**ms):
    """A timing without disturbances: name -> milliseconds."""
    return Timing({name: [value] * 20 for name, value in ms.items()}, "")


CLOCK = clock(fp32=10.0, fp16=12.0, int8=4.0)


def candidate(precision, refused=None, **changes):
    return Candidate(precision, {}, {"portable": GOOD}, refused, **changes)


def test_the_fastest_that_passed_is_chosen():
    three = [candidate("fp32"), candidate("fp16"), candidate("int8")]
    assert candidates.choose(three, CLOCK).precision == "int8"
    three[2] = candidate("int8", "it is wrong")
    assert candidates.choose(three, CLOCK).precision == "fp32"


def test_a_speed_that_the_machine_does_not_tell_chooses_nothing():
    two = [candidate("fp32"), candidate("int8")]
    assert candidates.choose(two, clock(fp32=10.0, int8=9.8)).precision == "fp32"
    # Other work disturbs half of the rounds: 1.5 times faster, or 1.4 times slower.
    disturbed = Timing({"fp32": [10.0] * 20, "int8": [6.5, 14.0] * 10}, "")
    assert candidates.choose(two, disturbed).precision == "fp32"
    said = candidates.verdict(two[1], two, disturbed, "onnxruntime")
    assert said.startswith(
        "INT8: not told apart by speed (0.71 to 1.54) from FP32 with onnxruntime"
    )


def test_the_verdict_is_a_sentence_with_reasons():
    fp32, fp16 = candidate("fp32"), candidate("fp16", "model.onnx is wrong")
    int8 = candidate("int8", linears=48, kept={"MatMul_3": 21.0, "MatMul_9": 22.5})
    assert candidates.verdict(int8, [fp32, fp16, int8], CLOCK, "onnxruntime") == (
        "INT8: 2.50x (2.50 to 2.50) as fast as FP32 with onnxruntime here, "
        f"{AGREEMENT}, "
        "top-1 96.00 % (FP32 96.50 %); 2 of 48 Linears kept FP16; "
        "not FP16: model.onnx is wrong"
    )
    assert candidates.verdict(fp32, [fp32, candidate("fp16")], CLOCK, "onnxruntime") == (
        f"FP32: {AGREEMENT}, top-1 96.00 %; FP16 is 0.83x (0.83 to 0.83) as fast as it"
    )
    unknown = replace(GOOD, top1=None, top1_fp32=None)
    fp16 = Candidate("fp16", {}, {"portable": unknown}, "model.onnx is wrong")
    assert candidates.verdict(fp16, [fp32, fp16], CLOCK, "onnxruntime") == (
        f"FP16: 0.83x (0.83 to 0.83) as fast as FP32 with onnxruntime here, {AGREEMENT}; "
        "the gate refuses it: model.onnx is wrong"
    )


def test_the_worst_form_disagrees_most_and_on_a_tie_is_noisier():
    noisy, wrong = replace(GOOD, sqnr_db=20.0), replace(GOOD, agreement=99.5)
    found = Candidate("int8", {}, {"portable": noisy, "device": wrong}, None)
    assert found.worst_form == "device"
    assert Candidate("int8", {}, {"a": GOOD, "b": noisy}, None).worst_form == "b"


def test_each_figure_of_the_verdict_is_the_lowest_and_says_of_which_form():
    portable = replace(GOOD, cosine=0.99106, labels=98.5)
    device = replace(GOOD, agreement=99.25, cosine=0.99602, labels=98.5)
    found = Candidate("int8", {}, {"portable": portable, "device": device}, None)
    said = candidates.verdict(found, [found], clock(int8=1.0), "onnxruntime")
    assert said == (
        "INT8: agreement 99.25 % of 400 images (95 % interval: 97.8 to 99.7 %) in the FP16-cast "
        "graph for model.plan, top-1 96.00 % (FP32 96.50 %), lowest cosine 0.99106 in model.onnx, "
        "of labels 98.50 %"
    )


@pytest.fixture(scope="module")
def setting(fp32_graph):
    model = graph.load(fp32_graph)
    x = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
    ranges = Ranges("minmax", 16, "", calibrate(model, iter(x), "minmax", 16))
    names = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    linears = [name for name in names if "matmul" not in name]
    return model, ranges, {name: 20.0 + at for at, name in enumerate(linears)}


def quantised(model, ranges, alone, evaluator):
    def build(kept):
        return make_forms(model, "int8", ranges, kept)

    return candidates.make_quantised("int8", build, alone, evaluator, GATE, Recorder())


class Scripted:
    """An evaluator that accepts graphs with at least `fewest` Linears not in INT8."""

    def __init__(self, fewest):
        self.fewest = fewest

    def outputs(self, forms):
        nodes = forms["portable"].graph.node
        return {"portable": 8 - sum(node.op_type == "QuantizeLinear" for node in nodes)}

    def accuracy(self, outputs):
        agreement = 100.0 if outputs["portable"] >= self.fewest else 50.0
        return {"portable": replace(GOOD, agreement=agreement)}


@pytest.mark.parametrize("fewest", [0, 1, 2, 3, 4])
def test_as_few_linears_as_the_gate_allows_are_kept_worst_first(setting, fewest):
    model, ranges, alone = setting
    found = quantised(model, ranges, alone, Scripted(fewest))
    assert found.refused is None
    assert list(found.kept) == list(alone)[:fewest]
    assert found.note == (f"{fewest} of 8 Linears kept FP16" if fewest else "all 8 Linears INT8")


def test_an_engine_that_is_int8_in_name_only_is_refused(setting):
    model, ranges, alone = setting
    found = quantised(model, ranges, alone, Scripted(5))
    assert "50.00 % of 400 images" in found.refused
    assert "; at best, 1 of 8 Linears kept FP16: agreement 50.00 %" in found.refused
    assert found.forms  # a report compares them with FP32


def test_candidates_are_timed(setting):
    model, _, _ = setting
    two = [Candidate(name, {"portable": model}, {"portable": GOOD}, None) for name in ("a", "b")]
    timing = candidates.timed(two)
    assert set(timing.times_ms) == {"a", "b"}
    assert timing.rounds >= 10
    assert timing.ms("a") > 0 and timing.ms("b") > 0
    assert re.fullmatch(r".+, \d+ cores, load \d+\.\d", timing.machine)
