"""Embeddings are those of transformers' own models, pooled as asked."""

import json
import shutil

import numpy as np
import pytest
import torch

from edge.builder import graph, image_sets
from edge.builder.evaluator import Evaluator
from edge.builder.export import export
from edge.builder.models import network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import Request
from edge.builder.pipeline import build
from edge.builder.precision import fp16
from edge.builder.recipes import Recipe
from edge.builder.simplify import simplify
from edge.engine.compare import cosines
from edge.engine.heads import CLASSIFICATION, FEATURES
from edge.engine.passport import Passport
from edge.errors import CheckpointError, EngineError, GateError
from scripts.models.tiny_models import save
from tests.builder.conftest import compiled
from tests.builder.test_evaluator import negated
from tests.conftest import LABELS, Recorder, needs_rtx

# The poolings that each has, and how many tokens are of no patch.
FAMILIES = {
    "vit backbone": (("own", "cls", "mean"), 1),
    "deit backbone": (("own", "cls", "mean"), 2),
    "vit_mae": (("cls", "mean"), 1),
    "clip": (("own", "cls", "mean"), 1),
    "siglip": (("own", "mean"), 0),
    "deit distilled": (("cls", "mean"), 2),
    "beit": (("own", "cls", "mean"), 1),
    "swin": (("own", "mean"), 0),
    "swinv2": (("own", "mean"), 0),
    "dinov2": (("own", "cls", "mean"), 1),
    "dinov2_with_registers": (("own", "cls", "mean"), 5),
    "dinov3_vit": (("own", "cls", "mean"), 5),
    "dinov3_convnext": (("own", "cls", "mean"), 1),
    "ijepa": (("mean",), 0),
    "vit_msn": (("cls", "mean"), 1),
    "pixio": (("own", "cls", "mean"), 8),
    "metaclip_2": (("own", "cls", "mean"), 1),
    "convnext": (("own", "mean"), 0),
    "convnextv2": (("own", "mean"), 0),
    "mobilevit": (("own", "mean"), 0),
    "clip_vision_model": (("own", "cls", "mean"), 1),
    "clip classifier": (("own", "cls", "mean"), 1),
    "siglip_vision_model": (("own", "mean"), 0),
    "siglip classifier": (("own", "mean"), 0),
}
# What transformers' AutoModel takes for another model: one whose text side is missing, or without
# the projection.
CLASSES = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip classifier": "CLIPVisionModel",
    "siglip classifier": "SiglipVisionModel",
}
EVERY = [(name, way) for name, (ways, _) in FAMILIES.items() for way in ways]
# Their graphs take seconds each: one pooling of each family, and pictures of another size than it
# was trained with. As few layers as have all in them: a second one adds nothing but time.
ONE = {
    "vit backbone": ("mean", None),
    "vit_mae": ("mean", None),
    "clip": ("own", 48),
    "siglip": ("own", 48),
    "deit distilled": ("cls", 48),
    "beit": ("own", 48),
    "swin": ("own", 36),
    "swinv2": ("mean", 36),
    "dinov2": ("cls", 48),
    "dinov2_with_registers": ("mean", 48),
    "dinov3_vit": ("own", 48),
    "dinov3_convnext": ("own", 64),
    "pixio": ("own", 48),
    "ijepa": ("mean", 48),
    "convnext": ("own", 64),
    "mobilevit": ("mean", 64),
}
EVERYDAY = ("clip", "dinov3_vit", "convnext")  # the others: make test-slow
NAMES = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in ONE]
ONE_LAYER, ONE_STAGE = {"num_hidden_layers": 1}, {"depths": [2], "num_heads": [2]}
SHORT = {
    "deit distilled": ONE_LAYER,
    "beit": ONE_LAYER,
    "dinov2": ONE_LAYER,
    "dinov2_with_registers": ONE_LAYER,
    "swin": ONE_STAGE,
    "swinv2": ONE_STAGE,
    "convnext": {"depths": [1, 1]},
}
# Those that are told to interpolate; the others do it on every call, or have nothing to.
TOLD = ("clip", "siglip", "deit distilled", "beit", "swin", "swinv2", "ijepa", "metaclip_2")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> the folder of its tiny checkpoint."""
    folder = tmp_path_factory.mktemp("backbones")
    return {name: save(name, folder / name, LABELS, **SHORT.get(name, {})) for name in FAMILIES}


@pytest.fixture(scope="module")
def simple(saved, pictures):
    """name -> checkpoint, its simplified graph, pictures, as in `ONE`; embeddings of length 1."""
    made = {}

    def make(name):
        if name not in made:
            way, side = ONE[name]
            request = Request(FEATURES, way, normalise=True, image_size=side)
            found = read_checkpoint(str(saved[name]), request)
            few = image_sets.prepare_first(image_sets.find(pictures), found.preprocess, 8, print)
            model, _ = export(found, few[:3])
            made[name] = found, simplify(model, few[:3])[0], few
        return made[name]

    return make


def expected(folder, name, way, few):
    """What transformers gives, each family by its own class; a MAE that hides nothing."""
    import transformers

    batch = torch.from_numpy(few)
    with torch.inference_mode():
        if name == "vit_mae":
            config = transformers.ViTMAEConfig.from_pretrained(folder)
            config.mask_ratio = 0.0
            model = transformers.ViTMAEModel.from_pretrained(folder, config=config).eval()
            output = model(batch, noise=torch.arange(16.0).expand(len(few), -1))  # in their order
        else:
            kind = getattr(transformers, CLASSES.get(name, "AutoModel"))
            model = kind.from_pretrained(folder).eval()
            flag = {"interpolate_pos_encoding": True} if name in TOLD else {}
            output = getattr(model, "get_image_features", model)(batch, **flag)
    tokens = output.last_hidden_state
    if way == "own":
        return output.get("image_embeds", output.get("pooler_output")).numpy()
    if tokens.ndim == 4:  # a map
        return tokens.mean((2, 3)).numpy()
    return (tokens[:, 0] if way == "cls" else tokens[:, FAMILIES[name][1] :].mean(1)).numpy()


@pytest.mark.parametrize(("name", "way"), EVERY)
def test_each_pooling_is_transformers_own(saved, pictures, name, way):
    found = read_checkpoint(str(saved[name]), Request(FEATURES, way))
    few = image_sets.prepare_first(image_sets.find(pictures), found.preprocess, 4, print)
    with network.quiet(), torch.inference_mode():
        given = network.load(found)(torch.from_numpy(few)).numpy()
    reference = expected(saved[name], name, way, few)
    np.testing.assert_allclose(given, reference, atol=1e-4 * abs(reference).max())
    assert abs(reference).max() > 0.1  # and is no embedding of nothing
    assert (cosines(reference, given) >= 0.9999).all()
    assert cosines(reference[:1], reference[1:2]) < 0.998


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("clip", "CLIPVisionModel"),
        ("clip", "CLIPVisionModelWithProjection"),
        ("siglip", "SiglipVisionModel"),
    ],
)
def test_a_tower_that_was_saved_alone_is_itself(saved, tmp_path, name, architecture):
    import transformers

    kind = getattr(transformers, architecture)
    shutil.copytree(saved[name], tmp_path / "tower")
    alone = kind.from_pretrained(saved[name]).eval()
    alone.save_pretrained(tmp_path / "tower")
    picture = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = alone(picture)
        expected = getattr(output, "image_embeds", output.get("pooler_output"))
        with network.quiet():
            found = read_checkpoint(str(tmp_path / "tower"), Request(FEATURES))
            given = network.load(found)(picture)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert given.shape[1] == (48 if "Projection" in architecture else 64)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_gives_the_same_at_length_1(saved, simple, name):
    _, model, few = simple(name)
    way, side = ONE[name]
    assert few.shape[2:] == (side or 32,) * 2
    given = graph.session(model).logits(few)
    assert (cosines(expected(saved[name], name, way, few), given) >= 0.9999).all()
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)
    assert model.graph.output[0].name == "embedding"


@pytest.mark.parametrize("name", NAMES)
def test_fp16_stays_near(simple, name):
    _, model, few = simple(name)
    half = fp16.to_fp16(model, fp16.find_fp32_nodes(model, fp16.peaks(model, few)))
    reference = graph.session(model).logits(few)
    assert (cosines(reference, graph.session(half).logits(few)) > 0.999).all()


@needs_rtx
@pytest.mark.parametrize("name", NAMES)
def test_tensorrt_compiles_it_in_fp16(simple, tmp_path, name):
    _, model, _ = simple(name)
    assert compiled(fp16.to_fp16(model), tmp_path)


def test_the_half_that_reads_is_not_in_the_graph(simple):
    """Neither its weights, nor what only sees to them."""
    _, model, _ = simple("clip")
    assert not [tensor.name for tensor in model.graph.initializer if "text" in tensor.name]
    assert [value.name for value in model.graph.input] == ["pixel_values"]


def refused(folder, request, named, hint, load=False):
    with pytest.raises(CheckpointError) as caught:
        found = read_checkpoint(str(folder), request)
        if load:
            with network.quiet():
                network.load(found)
    assert named in caught.value.problem, str(caught.value)
    assert hint in caught.value.hint


def test_weights_that_a_classifier_has_not_are_never_made_up(checkpoint, saved):
    """transformers would put random ones in their place."""
    for folder in (checkpoint, saved["vit_mae"]):
        refused(folder, Request(FEATURES), "without the weights of its pooler", "cls", load=True)
    found = read_checkpoint(str(checkpoint), Request(FEATURES, "cls"))
    with network.quiet():
        assert network.load(found)(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_a_class_token_that_there_is_not(saved):
    refused(saved["siglip"], Request(FEATURES, "cls"), "no class token", "--pooling mean")


def test_a_classifier_is_not_pooled(checkpoint):
    for request in (Request(pooling="own"), Request(CLASSIFICATION, normalise=True)):
        refused(checkpoint, request, "--pooling and --normalise", f"--task {FEATURES}")


@pytest.fixture(scope="module")
def recipe(saved, pictures, tmp_path_factory):
    return Recipe(
        str(saved["vit backbone"]),
        pictures,
        name="embeds",
        task=FEATURES,
        normalise=True,
        min_agreement=90,
        engines=tmp_path_factory.mktemp("engines"),
    )


@pytest.fixture(scope="module")
def built(recipe):
    return build(recipe, Recorder())


def test_an_int8_engine_is_judged_by_cosine(built):
    passport = built.passport
    assert (passport.head.pooling, passport.head.normalised) == ("own", True)
    assert (passport.outputs, passport.labels, passport.precision) == (64, (), "int8")
    for measured in passport.accuracy.values():
        assert 0.9 < measured.cosine < 1
        assert measured.top1 is None  # though the pictures lie in folders of classes
    assert "lowest cosine 0.9" in passport.verdict
    assert Passport.read(built.folder) == passport


def test_its_report_tells_cosines_and_shows_no_labels(built):
    page = (built.folder / "report.html").read_text()
    assert "lowest cosine" in page and "top-1" not in page
    assert "of 8 embeddings have a cosine below 0.99 to FP32's" in page
    assert "<img" not in page


def test_a_judge_counts_what_is_far_away_and_shows_none_of_it(simple, pictures):
    found, model, _ = simple("vit backbone")
    judge = Evaluator(model, image_sets.find(pictures)[:5], found, Recorder())
    outputs = judge.outputs({"portable": model, "device": negated(model)})
    assert judge.review(outputs["portable"]).differing == 0
    assert judge.review(outputs["device"]).differing == 5
    assert judge.accuracy(outputs)["device"].cosine == pytest.approx(-1)


def test_the_gate_says_what_near_is(recipe, built, monkeypatch):
    from edge.engine import accuracy, compare

    for module in (compare, accuracy):
        monkeypatch.setattr(module, "NEAR", 1.1)
    strict = Recipe(**{**vars(recipe), "name": "strict", "precision": "fp16"})
    with pytest.raises(GateError, match=r"agrees with FP32 \(a cosine of 1.1\) on 0.00 % of 8"):
        build(strict, Recorder())


def test_features_have_no_top_1_to_lose(recipe):
    with pytest.raises(EngineError, match="no top-1"):
        build(Recipe(**{**vars(recipe), "max_drop": 1.0}), Recorder())


def test_a_processor_saved_with_a_tokenizer_is_found_inside(saved, tmp_path):
    """As transformers 5 saves a CLIPProcessor."""
    folder = shutil.copytree(saved["clip"], tmp_path / "clip")
    inner = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    whole = {"processor_class": "CLIPProcessor", "image_processor": inner}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    found, same = (read_checkpoint(str(one), Request(FEATURES)) for one in (folder, saved["clip"]))
    assert found.preprocess == same.preprocess
    assert folder / "processor_config.json" in found.files


@pytest.mark.parametrize("beside", ["absent", None, {"image_size": 64, "patch_size": 4}])
def test_a_clip_of_early_days_keeps_its_sizes_under_another_name(saved, tmp_path, beside):
    """As openai/clip-vit-large-patch14-336: transformers takes vision_config_dict alone."""
    folder = shutil.copytree(saved["clip"], tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    for side in ("vision", "text"):
        config[f"{side}_config_dict"] = config.pop(f"{side}_config")
        if beside != "absent":
            config[f"{side}_config"] = beside
    (folder / "config.json").write_text(json.dumps(config))
    pictures = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    given = []
    for one in (folder, saved["clip"]):
        found = read_checkpoint(str(one), Request(FEATURES, image_size=48))
        with network.quiet(), torch.inference_mode():
            given.append(network.load(found)(pictures))
    assert torch.equal(*given)


def test_dinov3_s_rotary_positions_are_constants(simple):
    """Versions of TensorRT compute them wrongly, or split the graph where they are tiled."""
    _, model, _ = simple("dinov3_vit")
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Cos", "Sin", "Tile", "If", "Range", "Resize", "Where", "Neg"}
    index = graph.Index(model)
    rotated = [node for node in model.graph.node if node.op_type == "Mul"]
    tables = [name for node in rotated for name in node.input if name in index.weights]
    tokens = (48 // 8) ** 2 + 5
    assert sum(list(index.weights[name].dims) == [tokens, 16] for name in tables) == 8


@pytest.mark.slow
def test_a_large_dinov3_has_gates_in_its_mlp(tmp_path, pictures):
    """As dinov3-vith16plus: SiLU gates, and key projections without a bias."""
    save("dinov3_vit", tmp_path, LABELS, use_gated_mlp=True, hidden_act="silu", mlp_bias=True)
    found = read_checkpoint(str(tmp_path), Request(FEATURES))
    few = image_sets.prepare_first(image_sets.find(pictures), found.preprocess, 4, print)
    model = simplify(export(found, few)[0], few)[0]
    given = graph.session(model).logits(few)
    np.testing.assert_allclose(given, expected(tmp_path, "dinov3_vit", "own", few), atol=1e-4)
