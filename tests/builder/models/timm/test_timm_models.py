"""Folders as timm uploads them to the Hub, held against transformers' own TimmWrapper."""

import json
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import edge
from edge.builder import export as exporting
from edge.builder import graph
from edge.builder.models import network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import Request
from edge.builder.pipeline import build
from edge.builder.precision import fp16, placement
from edge.builder.precision.sites import roles
from edge.builder.recipes import Recipe
from edge.builder.simplify import simplify
from edge.engine.compare import cosines
from edge.engine.heads import FEATURES
from edge.errors import CheckpointError
from edge.preprocess.cpu import Preprocessor, load_image
from scripts.models import tiny_timm
from tests.builder.conftest import compiled, sqnr
from tests.builder.models.timm import ask_transformers
from tests.conftest import LABELS, Recorder, draw, needs_rtx

DEFAULT = Request()
KINDS = ("patch16", "registers, mean", "hybrid")
# A hybrid takes half a minute to export: its graph is tested in `make test-slow`.
HYBRID = pytest.param("hybrid", marks=pytest.mark.slow)
MORE = tuple(kind for kind in tiny_timm.ARCHITECTURES if kind not in KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Some kinds of checkpoints; copy one before changing it."""
    return saved(tmp_path_factory.mktemp("timm"), (*KINDS, "convnext"))


def saved(root, kinds):
    return {kind: tiny_timm.save(kind, root / kind.replace(" ", "-"), LABELS) for kind in kinds}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "one.png"
    Image.fromarray(draw(np.random.default_rng(3), 90, 120)).save(path)
    return path


@pytest.fixture(scope="module")
def said(folders, picture, tmp_path_factory):
    return ask_transformers.said(folders, picture, tmp_path_factory.mktemp("said") / "said.npz")


def prepared(found, picture):
    return Preprocessor(found.preprocess)(load_image(picture))[None]


def export(folder, picture, request=DEFAULT):
    """A checkpoint, its graph, and prepared pictures."""
    found = read_checkpoint(str(folder), request)
    pixels = prepared(found, picture)
    pictures = np.concatenate([pixels, -pixels, pixels / 2])
    model, difference = exporting.export(found, pictures)
    assert difference < 1e-3
    return found, model, pictures


@pytest.fixture(scope="module")
def exported(folders, picture):
    """kind -> what `export` gives for it."""
    return lru_cache(maxsize=None)(lambda kind: export(folders[kind], picture))


@pytest.mark.parametrize(
    "kind", ["patch16", pytest.param("registers, mean", marks=pytest.mark.slow), HYBRID]
)
def test_says_what_transformers_says(kind, exported, said):
    agrees(*exported(kind), said[kind])


@pytest.mark.slow
def test_so_does_every_other_kind(picture, tmp_path):
    folders = saved(tmp_path, MORE)
    said = ask_transformers.said(folders, picture, tmp_path / "said.npz")
    for kind, folder in folders.items():
        agrees(*export(folder, picture), said[kind])


def agrees(found, model, pictures, said):
    logits = graph.session(model).logits(pictures[:1])
    assert logits == pytest.approx(said["logits"], abs=1e-4 * float(abs(logits).max()))
    scores = found.head.probabilities(logits)[0]
    best = np.argsort(-scores)
    assert [found.head.labels[at] for at in best] == [label for label, _ in said["top"]]
    assert scores[best] == pytest.approx([score for _, score in said["top"]], abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "way", "special"),
    [
        ("patch16", "own", 1),
        ("patch16", "cls", 1),
        ("patch16", "mean", 1),
        ("hybrid", "own", 1),
        ("hybrid", "mean", 1),
        ("registers, mean", "own", 1),
        ("registers, mean", "mean", 1),
        ("convnext", "own", 0),
    ],
)
def test_gives_the_features_that_transformers_gives(kind, way, special, folders, picture, said):
    found = read_checkpoint(str(folders[kind]), Request(FEATURES, way))
    with network.quiet():
        features = network.load(found)(_tensor(prepared(found, picture))).detach().numpy()
    tokens = said[kind]["tokens"]
    expected = {
        "own": said[kind]["features"],
        "cls": tokens[:, 0],
        "mean": tokens[:, special:].mean(1),
    }[way]
    assert features == pytest.approx(expected, abs=1e-5)
    assert (cosines(expected, features) >= 0.9999).all()


@needs_rtx
@pytest.mark.slow
def test_tensorrt_compiles_embeddings_of_pictures_of_another_size_in_fp16(picture, tmp_path):
    folder = tiny_timm.save("patch32", tmp_path / "patch32", LABELS)
    _, model, pictures = export(folder, picture, Request(FEATURES, "mean", image_size=128))
    model, _ = simplify(model, pictures)
    half = fp16.to_fp16(model, fp16.find_fp32_nodes(model, fp16.peaks(model, pictures)))
    assert pictures.shape[2:] == (128, 128)
    assert (cosines(*(graph.session(one).logits(pictures) for one in (model, half))) > 0.999).all()
    assert compiled(half, tmp_path)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["384", "large", "hybrid of 4 stages"])
def test_tensorrt_compiles_what_else_is_published_in_fp16(kind, picture, tmp_path):
    folder = tiny_timm.save(kind, tmp_path / "checkpoint", LABELS)
    _, model, pictures = export(folder, picture)
    model, _ = simplify(model, pictures)
    half = fp16.to_fp16(model, fp16.find_fp32_nodes(model, fp16.peaks(model, pictures)))
    assert sqnr(*(graph.session(one).logits(pictures) for one in (model, half))) > 30
    assert compiled(half, tmp_path)


@pytest.fixture(scope="module")
def simplified(exported):
    """kind -> its simplified graph."""
    return lru_cache(maxsize=None)(lambda kind: simplify(*exported(kind)[1:])[0])


@pytest.mark.parametrize("kind", ["patch16", HYBRID])
def test_every_linear_of_a_block_is_known_by_its_role(kind, simplified):
    names = [f"{block}/{role}" for block in (0, 1) for role in ("qkv", "proj", "fc1", "fc2")]
    assert list(roles(simplified(kind)).values()) == names


@pytest.mark.slow
def test_a_hybrids_convolutions_have_standardised_constants(simplified):
    index = graph.Index(simplified("hybrid"))
    operators = {node.op_type for node in index.model.graph.node}
    assert "BatchNormalization" not in operators
    stem = next(node for node in index.model.graph.node if node.op_type == "Conv")
    rows = index.array(stem.input[1]).reshape(index.weights[stem.input[1]].dims[0], -1)
    assert rows.mean(1) == pytest.approx(0, abs=1e-6)
    assert rows.std(1) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_hybrid_is_right_in_fp16(simplified, exported, tmp_path):
    """Its GroupNorm is an InstanceNormalization, which sums up what may be beyond FP16."""
    model, pictures = simplified("hybrid"), exported("hybrid")[2]
    half = fp16.to_fp16(model, fp16.find_fp32_nodes(model, fp16.peaks(model, pictures)))
    index = graph.Index(half)
    (norm,) = (node for node in half.graph.node if node.op_type == "InstanceNormalization")
    while (before := index.maker[norm.input[0]]).op_type == "Reshape":
        norm = before
    assert before.op_type == "Cast"
    reference = graph.session(model).logits(pictures)
    assert sqnr(reference, graph.session(half).logits(pictures)) > 50


@needs_rtx
@pytest.mark.parametrize("kind", ["patch16", HYBRID])
def test_one_command_makes_an_int8_engine_with_a_plan(kind, folders, picture, pictures, tmp_path):
    recipe = Recipe(str(folders[kind]), pictures, name="timm", engines=tmp_path, min_agreement=80)
    built = build(recipe, Recorder())
    passport = built.passport
    assert (passport.precision, passport.checkpoint.architecture, passport.labels) == (
        "int8",
        "TimmWrapperForImageClassification",
        LABELS,
    )
    assert passport.plan.backend == "tensorrt-rtx"
    assert all(form.sqnr_db > 20 for form in passport.accuracy.values())
    assert placement.check(graph.load(built.folder / "model.onnx")) == 8  # Linears
    with edge.load(str(built.folder), backend="onnxruntime") as model:
        given = model(picture).probabilities
    found = read_checkpoint(str(folders[kind]))
    with network.quiet():
        logits = network.load(found)(_tensor(prepared(found, picture))).detach().numpy()
    assert given == pytest.approx(found.head.probabilities(logits)[0], abs=0.05)


def test_exporting_leaves_timm_as_it_was(folders):
    found = read_checkpoint(str(folders["patch16"]))
    with network.quiet():
        first, second = network.load(found), network.load(found)
        network.for_export(first, _tensor(np.zeros((1, 3, 32, 32), np.float32)))
    assert second.model.blocks[0].attn.fused_attn


@pytest.fixture
def copy(tmp_path):
    def made(**changes):
        return tiny_timm.save("patch16", tmp_path / "copy", LABELS, **changes)

    return made


def refused(folder, named, request=DEFAULT):
    with pytest.raises(CheckpointError) as caught, network.quiet():
        network.load(read_checkpoint(str(folder), request))
    assert named in str(caught.value)


def test_imagenets_labels_are_timms_own(copy):
    head = read_checkpoint(str(copy(num_classes=1000, label_names=None))).head
    assert len(head.labels) == 1000
    assert head.labels[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")


def test_classes_without_names_are_numbered(copy):
    assert read_checkpoint(str(copy(label_names=None))).head.labels[4] == "LABEL_4"


def test_classes_have_the_names_of_id2label_where_label_names_are_absent(copy):
    """As in transformers, where ImageNet's names come before them."""
    names = {str(index): f"class {index}" for index in reversed(range(5))}
    head = read_checkpoint(str(copy(label_names=None, id2label=names))).head
    assert head.labels == tuple(f"class {index}" for index in range(5))
    assert read_checkpoint(str(copy(id2label=names))).head.labels == tuple(LABELS)
    thousand = {str(index): "x" for index in range(1000)}
    found = read_checkpoint(str(copy(num_classes=1000, label_names=None, id2label=thousand)))
    assert found.head.labels[0] == "tench, Tinca tinca"
    refused(copy(label_names=None, id2label={"0": "a"}), "has 1 labels in id2label and 5 num_c")
    refused(copy(label_names=None, id2label={"0": "a", "2": "b"}), "id2label in config.json has no")


def test_weights_of_an_object_around_the_model(copy):
    folder = copy()
    path = folder / "model.safetensors"
    save_file({f"module.{key}": value for key, value in load_file(path).items()}, path)
    refused(folder, "weights whose names begin with 'module.'")


def test_a_checkpoint_without_a_classifier_gives_features(copy):
    folder = copy(num_classes=0, label_names=None)
    found = read_checkpoint(str(folder))
    assert (found.head.task, found.architecture) == ("image-feature-extraction", "TimmWrapperModel")
    with network.quiet():
        assert network.load(found)(_tensor(np.zeros((1, 3, 32, 32), np.float32))).shape == (1, 64)


def test_weights_that_transformers_saved_have_a_prefix(copy, folders):
    folder = copy()
    path = folder / "model.safetensors"
    save_file({f"timm_model.{key}": value for key, value in load_file(path).items()}, path)
    pictures = _tensor(np.ones((1, 3, 32, 32), np.float32))
    with network.quiet():
        ours, plain = (network.load(read_checkpoint(str(f))) for f in (folder, folders["patch16"]))
        assert ours(pictures).tolist() == plain(pictures).tolist()


def test_weights_averaged_in_training_are_not_read(copy, folders):
    folder = copy()
    weights = load_file(folder / "model.safetensors")
    zeros = {key: np.zeros_like(value) for key, value in weights.items()}
    save_file(zeros, folder / "model_ema.safetensors")
    pictures = _tensor(np.ones((1, 3, 32, 32), np.float32))
    with network.quiet():
        ours, plain = (network.load(read_checkpoint(str(f))) for f in (folder, folders["patch16"]))
        assert ours(pictures).tolist() == plain(pictures).tolist()


def test_what_timm_repeats_among_the_arguments_does_no_harm(copy):
    arguments = {**tiny_timm.SMALL, "in_chans": 3}
    with network.quiet():
        made = network.load(read_checkpoint(str(copy(model_args=arguments))))
    assert made.model.num_classes == 5


def test_refuses_what_does_not_belong_together(copy):
    refused(copy(label_names=["cat", "dog"]), "is not a list of 5 names")
    refused(copy(num_classes=7, label_names=None), "5 outputs (head.weight), and its config.json 7")
    refused(copy(num_classes=7, label_names=None), "correct num_classes and label_names in config")
    wider = {**tiny_timm.SMALL, "mlp_ratio": 2}
    refused(copy(model_args=wider), "blocks.0.mlp.fc1.bias of [256] among its weights")
    refused(copy(architecture="vit_of_tomorrow"), "does not know")
    refused(copy(architecture="hf-hub:someone/else"), "does not know")


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "pretrained_cfg"])
def test_no_other_weights_are_opened(copy, argument):
    refused(copy(model_args={argument: "weights.bin"}), argument)


def test_pictures_of_another_size_than_the_model_takes(copy):
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 48, 48]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "prepares images of 48x48 and takes 32x32")


def test_what_does_not_say_how_pictures_are_prepared(copy):
    folder = copy(model_type="timm_wrapper", architectures=["TimmWrapperForImageClassification"])
    config = json.loads((folder / "config.json").read_text())
    for says in (None, [], "absent"):
        changed = {**config, "pretrained_cfg": says}
        if says == "absent":
            del changed["pretrained_cfg"]
        (folder / "config.json").write_text(json.dumps(changed))
        refused(folder, "has no pretrained_cfg")


def test_a_network_that_is_no_transformer_is_refused_before_its_export(copy):
    folder = copy(architecture="resnet18", model_args={}, num_classes=5)
    refused(folder, "is a resnet18, which vit-edge does not support; choose")


def test_weights_that_are_missing_are_named(copy):
    folder = copy()
    weights = load_file(folder / "model.safetensors")
    del weights["blocks.0.mlp.fc1.weight"]
    save_file(weights, folder / "model.safetensors")
    refused(folder, "blocks.0.mlp.fc1.weight")


def test_a_pooling_of_tokens_that_are_not_there(folders):
    refused(folders["convnext"], "no tokens for cls pooling", Request(FEATURES, "cls"))


def test_a_register_is_not_taken_for_the_class_token(folders):
    told = "is a vit_so150m2_patch16_reg1_gap_256, which has no class token; choose --pooling mean"
    refused(folders["registers, mean"], told, Request(FEATURES, "cls"))


def unpooled(folder, kind, pool=""):
    """One whose global_pool is empty, as Virchow's is: what it gives is left to others to pool."""
    arguments = {**tiny_timm.ARCHITECTURES[kind][1], "global_pool": pool}
    return tiny_timm.save(kind, folder, LABELS, model_args=arguments)


@pytest.mark.parametrize(
    ("kind", "task", "told"),
    [
        ("patch16", FEATURES, r"\[5, 64\] numbers .* not one row; choose --pooling cls or mean"),
        ("patch16", None, rf"\[5, 5\] numbers .*; add --task {FEATURES} --pooling cls"),
        ("convnext", FEATURES, r'\[64, 2, 2\] numbers .*; write "global_pool": "avg" into model'),
    ],
    ids=["tokens", "tokens of a classifier", "a map"],
)
def test_tokens_that_are_not_pooled_are_no_embedding(kind, task, told, picture, tmp_path):
    with pytest.raises(CheckpointError, match=told):
        export(unpooled(tmp_path / "unpooled", kind), picture, Request(task))


@pytest.mark.parametrize("way", ["cls", "mean"])
def test_they_are_once_it_is_said_how(way, folders, picture, said, tmp_path):
    found = read_checkpoint(str(unpooled(tmp_path / "a", "patch16")), Request(FEATURES, way))
    with network.quiet():
        features = network.load(found)(_tensor(prepared(found, picture))).detach().numpy()
    tokens = said["patch16"]["tokens"]
    expected = tokens[:, 0] if way == "cls" else tokens[:, 1:].mean(1)
    assert features == pytest.approx(expected, abs=1e-5)


def test_a_map_is_once_its_config_says_how(picture, tmp_path):
    found = read_checkpoint(str(unpooled(tmp_path / "a", "convnext", "avg")), Request(FEATURES))
    with network.quiet():
        assert network.load(found)(_tensor(prepared(found, picture))).shape == (1, 64)


def _tensor(pictures):
    import torch

    return torch.from_numpy(pictures)
