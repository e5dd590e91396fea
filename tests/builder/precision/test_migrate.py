"""Outlier migration changes what is quantised, and never what the graph computes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.builder import graph, verify
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.plan import make_forms
from edge.builder.precision.calibrate import calibrate
from edge.builder.precision.migrate import add_to_bias, can_scale, migrate
from edge.builder.precision.ranges import Range, Ranges
from edge.builder.precision.sites import biases, sites
from edge.builder.stages import export, simplify
from edge.engine.compare import compare
from edge.errors import GraphError
from edge.preprocess.cpu import Preprocessor
from tests.conftest import Recorder, add_outliers, draw, save_checkpoint


@pytest.fixture(scope="module")
def model(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def prepared(checkpoint):
    rng = np.random.default_rng(0)
    ready = Preprocessor(read_checkpoint(str(checkpoint)).preprocess)
    return [ready(draw(rng, 40 + number % 40, 60)) for number in range(200)]


def logits(model, prepared):
    return graph.session(model).logits(np.stack(prepared))


def channels(model, site):
    return graph.Index(model).weights[site.linears[0].weight].dims[0]


def test_every_site_names_the_node_before_it(model):
    kinds = [(site.norm is not None, site.values is not None) for site in sites(model)]
    # A LayerNorm before q, k and v; the attention; a LayerNorm before fc1; a GELU.
    assert kinds == [(True, False), (False, True), (True, False), (False, False)] * 2
    assert all(site.values.first == 2 * 64 for site in sites(model) if site.values)


def test_a_bias_is_changed_or_created(model, prepared):
    """The fused projection's three biases are zeros, which the simplifier removed."""
    for site in sites(model):
        changed = graph.ModelProto()
        changed.CopyFrom(model)
        again = next(s for s in sites(changed) if s.activation == site.activation)
        outputs = graph.Index(changed).weights[again.linears[0].weight].dims[1]
        extra = np.random.default_rng(0).standard_normal(outputs)
        add_to_bias(changed, again.linears[0], extra)
        assert np.abs(logits(changed, prepared[:2]) - logits(model, prepared[:2])).max() > 1e-4
        found = next(s for s in sites(changed) if s.activation == site.activation)
        add_to_bias(changed, found.linears[0], -extra)
        assert np.allclose(logits(changed, prepared[:2]), logits(model, prepared[:2]), atol=1e-5)
        assert all(place.node for place in biases(graph.Index(changed), found.linears[0]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.floats(0, 6), shift=st.floats(-3, 3))
def test_the_function_is_unchanged_to_float_precision(model, prepared, seed, spread, shift):
    rng = np.random.default_rng(seed)
    ranges = {}
    for site in sites(model):
        scale = np.exp(rng.uniform(-spread, spread, channels(model, site)))
        ranges[site.activation] = (
            Range(1.0, "test", 1.0, 1.0, 0.5, tuple(scale))
            if can_scale(site)
            else Range(1.0, "test", 1.0, 1.0, shift=shift)
        )
    moved, named = migrate(model, ranges)
    expected = logits(model, prepared[:4])
    assert np.abs(logits(moved, prepared[:4]) - expected).max() < 1e-5 * np.abs(expected).max()
    assert set(named) == {site.activation for site in sites(moved)}


def test_the_activation_is_shifted_and_scaled_as_the_range_defines(model, prepared):
    site = sites(model)[0]
    scale = tuple(np.linspace(0.5, 2, channels(model, site)))
    ranges = {s.activation: Range(1.0, "test", 1.0, 1.0) for s in sites(model)}
    ranges[site.activation] = Range(1.0, "test", 1.0, 1.0, 0.5, scale)
    moved, _ = migrate(model, ranges)

    def activation(model):
        probed = graph.ModelProto()
        probed.CopyFrom(model)
        probed.graph.output.add().name = site.activation
        return graph.session(probed).run(np.stack(prepared[:2]), [site.activation])[0]

    assert np.allclose(activation(moved), activation(model) / scale, rtol=1e-5, atol=1e-6)


def test_a_scale_of_another_graph_is_refused(model):
    ranges = {site.activation: Range(1.0, "test", 1.0, 1.0) for site in sites(model)}
    first = sites(model)[0].activation
    with pytest.raises(GraphError, match=f"{first} needs 64 numbers of scale"):
        migrate(model, {**ranges, first: Range(1.0, "test", 1.0, 1.0, 0.5, (1.0, 2.0))})


def test_a_scale_that_no_node_can_take_is_refused(model):
    ranges = {site.activation: Range(1.0, "test", 1.0, 1.0) for site in sites(model)}
    gelu = next(site.activation for site in sites(model) if not can_scale(site))
    scale = (1.0,) * 128
    with pytest.raises(GraphError, match=f"no node before {gelu} can be scaled for its migration"):
        migrate(model, {**ranges, gelu: Range(1.0, "test", 1.0, 1.0, 0.5, scale)})


def quality(model, prepared, method):
    found = calibrate(model, iter(prepared[:64]), method, 64)
    forms = make_forms(model, "int8", Ranges(method, 64, "", found))
    logits = verify.outputs({"reference": model, **forms}, prepared[64:])
    measured = {form: compare(logits["reference"], logits[form], None).sqnr_db for form in forms}
    return measured["portable"], measured["device"], found


def test_auto_is_as_good_as_the_best_single_method(model, prepared):
    """On random weights, which have no outliers to gain from."""
    ours, device, found = quality(model, prepared, "auto")
    assert ours > -0.2 + max(quality(model, prepared, m)[0] for m in ("minmax", "mse", "entropy"))
    assert device > ours - 1
    assert any(known.strength for known in found.values())
    assert all(known.shift for name, known in found.items() if "gelu" in name)


@pytest.mark.parametrize("factor", [pytest.param(40.0, marks=pytest.mark.slow), 200.0])
def test_outliers_cost_almost_no_accuracy(model, prepared, tmp_path, pictures, factor):
    checkpoint = add_outliers(save_checkpoint(tmp_path / "vit"), factor)
    export(str(checkpoint), pictures, tmp_path / "a.onnx", Recorder())
    simplify(tmp_path / "a.onnx", pictures, tmp_path / "b.onnx", Recorder())
    broken = graph.load(tmp_path / "b.onnx")
    assert quality(broken, prepared, "minmax")[0] < 15
    plain, outliers = quality(model, prepared, "auto")[0], quality(broken, prepared, "auto")
    assert outliers[0] > plain - 1
    assert outliers[1] > plain - 2  # with its FP16 rest, too
