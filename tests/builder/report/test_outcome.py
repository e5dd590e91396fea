"""The findings of a report, gathered from the outcome of a build."""

from dataclasses import replace

import numpy as np
import pytest

from edge.builder import graph, image_sets
from edge.builder.candidates import Candidate
from edge.builder.evaluator import Evaluator
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.plan import make_forms
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.ranges import Ranges
from edge.builder.precision.sites import linears
from edge.builder.recipes import Recipe
from edge.builder.report.outcome import Outcome, Setting, gather
from edge.builder.split import Sets
from edge.engine.accuracy import FORMS, OPEN, Gate
from edge.engine.timing import Timing
from tests.conftest import Recorder


@pytest.fixture(scope="module")
def setting(checkpoint, pictures, tmp_path_factory):
    files = image_sets.find(pictures)
    return Setting(
        recipe=Recipe(str(checkpoint), pictures, name="tiny"),
        checkpoint=read_checkpoint(str(checkpoint)),
        sets=Sets(files[10:], files[:10], "every fifth image"),
        set_sha256="",
        cache=tmp_path_factory.mktemp("cache"),
        checkpoint_key="",
        table=None,
        gate=Gate(99, None),
        tools={},
    )


@pytest.fixture(scope="module")
def outcome(setting, fp32_graph):
    model = graph.load(fp32_graph)
    evaluator = Evaluator(model, setting.sets.heldout, setting.checkpoint, Recorder())
    x = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
    ranges = Ranges("minmax", 16, "", calibrate(model, iter(x), "minmax", 16))
    names = [linear.node.name for linear in linears(model)]
    forms = make_forms(model, "int8", ranges, names[:2])
    kept = dict.fromkeys(names[:2], 20.0)
    outputs = evaluator.outputs(forms)
    accuracy = evaluator.accuracy(outputs)
    int8 = Candidate("int8", forms, accuracy, None, len(names), kept, outputs)
    fp32 = Candidate("fp32", {"portable": model}, {"portable": evaluator.fp32}, None)
    return Outcome(
        model=model,
        evaluator=evaluator,
        candidates=[fp32, int8],
        chosen=int8,
        timing=Timing({"fp32": [2.0] * 20, "int8": [1.0] * 20}, "a CPU, 2 cores, load 0.1"),
        verdict="INT8: why",
        ranges=ranges,
        sensitivity_db=dict.fromkeys(names, 30.0),
        fp32_nodes={"Add_1": "too large"},
    )


def test_the_report_has_the_results_of_the_build(setting, outcome):
    found = gather(setting, outcome)
    assert (found.name, found.precision, found.verdict) == ("tiny", "int8", "INT8: why")
    assert (found.images, found.gate) == (10, "99 % agreement")
    assert found.fp32_nodes == {"Add_1": "too large"}
    fp32, int8 = found.candidates
    assert (fp32.precision, fp32.ms, fp32.note) == ("fp32", 2.0, "")
    assert (int8.precision, int8.passed, int8.note) == ("int8", True, "2 of 8 Linears kept FP16")
    assert 0 < int8.megabytes < fp32.megabytes
    assert int8.accuracy == outcome.chosen.lowest
    # The first two Linears are kept FP16.
    assert found.quantised == (
        "0 of 1 convolution, 1 of 2 qkv, 0 of 4 attention, 1 of 2 proj, 2 of 2 fc1, 2 of 2 fc2, "
        "0 of 1 classifier"
    )


def test_every_linear_has_its_precision_and_the_reason(setting, outcome):
    found = gather(setting, outcome).linears
    assert [one.precision for one in found] == ["FP16"] * 2 + ["INT8"] * 6
    assert found[0].why == (
        "kept to pass the gate: it degrades the output most; FP32 in model.onnx, FP16 in the graph "
        "of model.plan"
    )
    assert found[2].why == "the gate passes with it in INT8"
    assert {one.sensitivity_db for one in found} == {30.0}
    assert len({one.name for one in found}) == 8


def test_no_linear_of_a_refused_candidate_passes(setting, outcome):
    refused = replace(outcome.chosen, refused="it is wrong", kept={})
    changed = replace(outcome, candidates=[outcome.candidates[0], refused], chosen=refused)
    found = gather(setting, changed)
    assert {one.why for one in found.linears} == {"the gate refuses the engine with it in INT8"}
    assert (found.candidates[1].passed, found.candidates[1].note) == (False, "it is wrong")


def test_without_a_gate_no_linear_passes(setting, outcome):
    recipe = replace(setting.recipe, gate=False)
    found = gather(replace(setting, recipe=recipe, gate=OPEN), outcome)
    assert not found.judged and found.gate == "none"
    assert {one.why for one in found.linears if one.precision == "INT8"} == {
        "INT8; without a gate nothing was kept"
    }


def test_disagreements_are_those_of_the_chosen_candidate_or_else_of_the_smallest(setting, outcome):
    worst = outcome.chosen.worst_form
    assert gather(setting, outcome).compared == f"INT8 ({FORMS[worst]})"
    found = gather(setting, replace(outcome, chosen=outcome.candidates[0]))
    assert found.compared == f"INT8 ({FORMS[worst]})"
    measured = outcome.chosen.accuracy[worst]
    assert found.review.differing == round(10 * (100 - measured.agreement) / 100)


def test_the_chosen_candidate_is_carried_first(outcome):
    fp32, int8 = outcome.candidates
    assert outcome.carried("int8") == [int8]
    assert outcome.carried("auto") == [int8, fp32]
    bad = replace(outcome, candidates=[fp32, replace(int8, refused="why")], chosen=fp32)
    assert bad.carried("auto") == [fp32]
