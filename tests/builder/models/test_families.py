"""Every family of image classification goes through one command, in every precision.

All are compiled as INT8, the precision with the most of TensorRT in it. In FP16 their embeddings
are (test_features.py), of pictures of another size; here only what has none there. The table of
models (tests/scripts/test_models_table.py) has each in each.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge
import edge.engine.passport
from edge.builder import compile as compiling
from edge.builder import export, graph, image_sets, plan
from edge.builder.models import network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.pipeline import build
from edge.builder.precision import calibrate, fp16, placement
from edge.builder.precision.coverage import Count, census
from edge.builder.precision.migrate import migrate
from edge.builder.precision.ranges import Ranges
from edge.builder.recipes import Recipe
from edge.builder.simplify import simplify
from edge.engine.describe import describe
from edge.engine.heads import CLASSIFICATION
from edge.errors import CheckpointError, GraphError
from scripts.models.tiny_models import save
from tests.builder.conftest import sqnr
from tests.conftest import Recorder, draw, needs_rtx

LABELS = ("cat", "dog", "fox", "owl", "bee", "elk", "ant")
ENCODER = {"qkv": 2, "proj": 2, "fc1": 2, "fc2": 2}
WINDOWS = {"qkv": 4, "proj": 4, "fc1": 4, "fc2": 4, "merge": 1}
QUANTISED = {
    "vit": ENCODER,
    "deit": ENCODER,
    "deit distilled": ENCODER,
    "beit": ENCODER,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "dinov2": ENCODER,
    "dinov2_with_registers": ENCODER,
    "ijepa": ENCODER,
    "vit_msn": ENCODER,
    "convnext": {"fc1": 4, "fc2": 4},
    "convnextv2": {"fc1": 4, "fc2": 4},
    "mobilevit": {"qkv": 9, "proj": 9, "fc1": 9, "fc2": 9},
    "clip classifier": {**ENCODER, "fc1": 1, "fc2": 1},  # no LayerNorm follows the last two
    "metaclip_2 classifier": {**ENCODER, "fc1": 1, "fc2": 1},
    "siglip classifier": ENCODER,
}
# One of each kind in `make test`, all in `make test-slow`: the export alone takes seconds.
EVERYDAY = ("swin", "dinov2_with_registers", "convnextv2")
FP16 = ("convnextv2",)  # compiled as well
CONVOLUTIONS = {"convnext": 6, "convnextv2": 6, "mobilevit": 35}


@dataclass(frozen=True, eq=False)
class Made:
    """A tiny checkpoint of a family, its FP32 engine without a plan, and its graphs."""

    name: str
    checkpoint: Path
    engine: Path
    pictures: Path

    @cached_property
    def prepared(self):
        """Pictures as the network takes them, float32 [8, 3, H, W]."""
        files = image_sets.find(self.pictures)
        preprocess = read_checkpoint(str(self.checkpoint)).preprocess
        return image_sets.prepare_first(files, preprocess, 8, print)

    @cached_property
    def fp32(self):
        return graph.load(self.engine / "model.onnx")

    @cached_property
    def ranges(self):
        few = self.prepared[::2]
        return Ranges("auto", 4, "", calibrate.calibrate(self.fp32, iter(few), "auto", 4))

    def forms(self, precision):
        model = type(self.fp32)()
        model.CopyFrom(self.fp32)
        fp16.set_kept(model, fp16.find_fp32_nodes(model, fp16.peaks(model, iter(self.prepared))))
        return plan.make_forms(model, precision, self.ranges if precision == "int8" else None)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Pictures in many shapes, as users have them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number in range(24):
        pixels = draw(rng, 150 + 5 * number, 260 - 4 * number)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def built(folder, checkpoint, pictures, **settings):
    """An FP32 engine without a plan."""
    recipe = Recipe(str(checkpoint), pictures, engines=folder, precision="fp32", **settings)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiling, "available", lambda: (None, "not in this test"))
        return build(recipe, Recorder()).folder


def save_padded(name, folder, sharper=0):
    """Windows of 4 that do not divide 10 x 10 patches; sharper: what is added to Swinv2's scales
    of attention, of which it allows 4.6."""
    from safetensors.numpy import load_file, save_file

    save(name, folder, LABELS, image_size=40)
    weights = load_file(folder / "model.safetensors")
    sharp = {key: value + sharper for key, value in weights.items() if key.endswith("logit_scale")}
    assert bool(sharp) is (name == "swinv2")
    save_file({**weights, **sharp}, folder / "model.safetensors", {"format": "pt"})
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    size = {"height": 40, "width": 40}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "size": size}))
    return folder


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in QUANTISED
    ],
)
def made(request, tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("family")
    checkpoint = save(request.param, folder / "checkpoint", LABELS)
    engine = built(folder / "engines", checkpoint, photos, max_batch=3, name="tiny")
    return Made(request.param, checkpoint, engine, photos)


def test_the_graph_says_what_transformers_says_in_any_batch(made):
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(made.checkpoint).eval()
    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(made.prepared)).logits.numpy()
    session = graph.session(made.fp32)
    for batch in (1, 3, 8):
        assert session.logits(made.prepared[:batch]) == pytest.approx(expected[:batch], abs=2e-5)
    assert abs(expected - expected.mean(0)).max() > 0.1  # the pictures matter


def test_an_engine_says_what_the_pipeline_says(made):
    agrees_with_pipeline(made.engine, made.checkpoint, made.pictures)


def agrees_with_pipeline(engine, checkpoint, pictures):
    from transformers import AutoImageProcessor, pipeline

    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    classify = pipeline(CLASSIFICATION, model=str(checkpoint), image_processor=processor)
    with edge.load(str(engine), backend="onnxruntime") as ours:
        for path in sorted(pictures.glob("*.png"))[:3]:
            picture = Image.open(path)
            theirs = classify(picture, top_k=5)
            top = ours(picture).top(5)
            assert [label for _, label, _ in top] == [one["label"] for one in theirs]
            scores = [one["score"] for one in theirs]
            assert [score for *_, score in top] == pytest.approx(scores, abs=1e-5)


def test_nothing_of_the_graph_depends_on_the_pictures_but_numbers(made):
    operators = Counter(node.op_type for node in made.fp32.graph.node)
    assert not {"Where", "IsNaN", "If", "Range", "NonZero", "Loop", "Resize"} & set(operators)
    assert operators["Shape"] <= 1  # the batch, for the tokens that are the same for all
    index = graph.Index(made.fp32)
    for softmax in (node for node in made.fp32.graph.node if node.op_type == "Softmax"):
        maker = index.maker[softmax.input[0]]
        if maker.op_type == "Add":  # relative positions and masks are one constant
            (scores,) = (name for name in maker.input if name not in index.weights)
            maker = index.maker[scores]
        assert maker.op_type == "MatMul"


def test_fp16_comes_near(made):
    (half,) = made.forms("fp16").values()
    reference = graph.session(made.fp32).logits(made.prepared)
    assert sqnr(reference, graph.session(half).logits(made.prepared)) > 40


def test_int8_comes_near_and_its_linears_alone_are_quantised(made):
    reference = graph.session(made.fp32).logits(made.prepared)
    forms = made.forms("int8")
    for model in forms.values():
        assert sqnr(reference, graph.session(model).logits(made.prepared)) > 20
    counts = census(forms["portable"])
    assert {kind: n.quantised for kind, n in counts.items() if n.quantised} == QUANTISED[made.name]
    assert all(n.quantised in (0, n.all) for n in counts.values())
    assert counts["convolution"].all == CONVOLUTIONS.get(made.name, 1)
    assert counts["classifier"].quantised == 0


def test_attention_is_quantised_where_that_is_asked_for(made):
    """Beneath the relative positions and the mask, too."""
    portable = made.forms("int8")["portable"]
    softmaxes = sum(node.op_type == "Softmax" for node in portable.graph.node)
    peaks = fp16.peaks(portable, iter(made.prepared))
    if made.name in ("convnext", "convnextv2"):
        with pytest.raises(GraphError, match="no attention"):
            placement.add(portable, peaks, ["attention"])
        return
    more = placement.add(portable, peaks, ["attention"])
    assert census(more)["attention"] == Count(2 * softmaxes, 2 * softmaxes)
    reference = graph.session(made.fp32).logits(made.prepared)
    assert sqnr(reference, graph.session(more).logits(made.prepared)) > 10


def test_migrating_outliers_changes_no_output(made):
    migrated, _ = migrate(made.fp32, made.ranges.ranges)
    assert len([one for one in made.ranges.ranges.values() if one.scale or one.shift]) > 0
    reference = graph.session(made.fp32).logits(made.prepared)
    assert sqnr(reference, graph.session(migrated).logits(made.prepared)) > 90


@needs_rtx
def test_tensorrt_compiles_it(made, tmp_path):
    passport = edge.engine.passport.Passport.read(made.engine)
    for precision in ("fp16", "int8") if made.name in FP16 else ("int8",):
        forms = made.forms(precision)
        path = tmp_path / f"{precision}.onnx"
        graph.save(forms.get("device", forms["portable"]), path)
        compiled = compiling.compile_plan(
            path,
            "tensorrt-rtx",
            input_shape=passport.input_shape,
            max_batch=3,
            cache=tmp_path,
            progress=lambda *_: None,
        )
        assert len(compiled.data) > 10_000


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_padded_windows_say_the_same_in_the_form_that_is_exported(name, tmp_path):
    import torch

    found = read_checkpoint(str(save_padded(name, tmp_path / "padded", sharper=4)))
    pictures = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(7))
    with network.quiet(), torch.inference_mode():
        module = network.load(found)
        expected = module(pictures)
        network.for_export(module, pictures[:1])
        torch.testing.assert_close(module(pictures), expected, atol=5e-5, rtol=0)


@pytest.mark.slow
def test_padding_of_windows_is_no_division_by_0_in_fp16(tmp_path):
    """What is padded makes vectors of length 0. A length is summed up in FP32: its square may be
    beyond FP16 where it is not."""
    found = read_checkpoint(str(save_padded("swinv2", tmp_path / "padded")))
    batch = np.random.default_rng(7).standard_normal((3, 3, 40, 40)).astype(np.float32)
    model, _ = simplify(export.export(found, batch)[0], batch)
    half = fp16.to_fp16(model)
    index = graph.Index(half)
    lengths = [node for node in half.graph.node if node.op_type == "ReduceL2"]
    assert len(lengths) == 8
    assert all(index.maker[node.input[0]].op_type == "Cast" for node in lengths)
    assert sqnr(graph.session(model).logits(batch), graph.session(half).logits(batch)) > 50


def test_a_fine_tuned_head_of_several_labels_at_once_gives_sigmoids(tmp_path, photos):
    folder = save("convnext", tmp_path / "c", LABELS[:3], problem_type="multi_label_classification")
    engine = built(tmp_path / "engines", folder, photos, name="several")
    agrees_with_pipeline(engine, folder, photos)
    passport = edge.engine.passport.Passport.read(engine)
    assert passport.accuracy["portable"].labels == 100
    assert "of labels 100.00 %" in passport.verdict
    assert "same yes or no for 100.00 % of labels" in describe(engine, passport)
    with edge.load(str(engine), backend="onnxruntime") as ours:
        (picture,) = sorted(photos.glob("*.png"))[:1]
        assert abs(ours(Image.open(picture)).probabilities.sum() - 1) > 0.01


def test_a_picture_size_that_contradicts_the_config_is_refused_where_it_matters(tmp_path):
    # DINOv2's config tells the size of pretraining: 56 here, and pictures are 32.
    spec = read_checkpoint(str(save("dinov2", tmp_path / "dino", LABELS))).preprocess
    assert (spec.height, spec.width) == (32, 32)
    with pytest.raises(
        CheckpointError, match=r"images of \(32, 32\), but the model takes \(40, 40\)"
    ):
        read_checkpoint(str(save("vit", tmp_path / "vit", LABELS, image_size=40)))
