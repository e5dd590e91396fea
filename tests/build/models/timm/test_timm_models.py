"""Folders as timm uploads them to the Hub, held against transformers' own TimmWrapper."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from edge.build import export as exporting
from edge.build import graph
from edge.build.models import network
from edge.build.models.checkpoint import read_checkpoint
from edge.build.models.tasks import Request
from edge.build.precision import quantize
from edge.build.precision.ranges import Range
from edge.build.precision.sites import linears, roles
from edge.build.simplify import simplify
from edge.errors import CheckpointError
from edge.preprocess.cpu import Preprocessor, load_image
from tests.build.models.timm import ask_transformers, checkpoints
from tests.conftest import draw

DEFAULT = Request()
KINDS = ("patch16", "registers, mean", "hybrid")
MORE = tuple(kind for kind in checkpoints.ARCHITECTURES if kind not in KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Some kinds of checkpoints; copy one before changing it."""
    return saved(tmp_path_factory.mktemp("timm"), (*KINDS, "convnext"))


def saved(root, kinds):
    return {kind: checkpoints.save(root / kind.replace(" ", "-"), kind) for kind in kinds}


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


@pytest.mark.parametrize("kind", KINDS)
def test_says_what_transformers_says(kind, folders, picture, said):
    agrees(folders[kind], picture, said[kind])


@pytest.mark.slow
def test_so_does_every_other_kind(picture, tmp_path):
    folders = saved(tmp_path, MORE)
    said = ask_transformers.said(folders, picture, tmp_path / "said.npz")
    for kind, folder in folders.items():
        agrees(folder, picture, said[kind])


def agrees(folder, picture, said):
    found = read_checkpoint(str(folder))
    pixels = prepared(found, picture)
    model, difference = exporting.export(found, np.concatenate([pixels, -pixels, pixels / 2]))
    logits = graph.session(model).logits(pixels)
    assert logits == pytest.approx(said["logits"], abs=1e-4 * float(abs(logits).max()))
    scores = found.head.probabilities(logits)[0]
    best = np.argsort(-scores)
    assert [found.head.labels[at] for at in best] == [label for label, _ in said["top"]]
    assert scores[best] == pytest.approx([score for _, score in said["top"]], abs=1e-4)
    assert difference < 1e-3


@pytest.mark.parametrize("kind", ["patch16", "registers, mean", "convnext"])
def test_gives_the_features_that_transformers_gives(kind, folders, picture, said):
    found = read_checkpoint(str(folders[kind]), Request("image-feature-extraction"))
    with network.quiet():
        features = network.load(found)(_tensor(prepared(found, picture))).detach().numpy()
    assert features == pytest.approx(said[kind]["features"], abs=1e-5)


@pytest.fixture(scope="module")
def simplified(folders):
    """The graphs of the kind that all others vary, and of one behind convolutions."""
    made = {}
    for kind in ("patch16", "hybrid"):
        found = read_checkpoint(str(folders[kind]))
        shape = (3, 3, found.preprocess.height, found.preprocess.width)
        pictures = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        made[kind], _ = simplify(exporting.export(found, pictures)[0], pictures)
    return made


@pytest.mark.parametrize("kind", ["patch16", "hybrid"])
def test_every_linear_of_a_block_is_known_by_its_role(kind, simplified):
    names = [f"{block}/{role}" for block in (0, 1) for role in ("qkv", "proj", "fc1", "fc2")]
    assert list(roles(simplified[kind]).values()) == names


def test_a_hybrids_convolutions_have_standardised_constants(simplified):
    index = graph.Index(simplified["hybrid"])
    operators = {node.op_type for node in index.model.graph.node}
    assert "BatchNormalization" not in operators
    stem = next(node for node in index.model.graph.node if node.op_type == "Conv")
    rows = index.array(stem.input[1]).reshape(index.weights[stem.input[1]].dims[0], -1)
    assert rows.mean(1) == pytest.approx(0, abs=1e-6)
    assert rows.std(1) == pytest.approx(1, abs=1e-3)


def test_becomes_int8(simplified):
    model = simplified["patch16"]
    ranges = {linear.activation: Range(6.0, "minmax", 6.0, 6.0) for linear in linears(model)}
    small = quantize.to_qdq(model, ranges)
    assert sum(node.op_type == "QuantizeLinear" for node in small.graph.node) == 8


def test_exporting_leaves_timm_as_it_was(folders):
    found = read_checkpoint(str(folders["patch16"]))
    with network.quiet():
        first, second = network.load(found), network.load(found)
        network.for_export(first, _tensor(np.zeros((1, 3, 32, 32), np.float32)))
    assert second.model.blocks[0].attn.fused_attn


@pytest.fixture
def copy(tmp_path):
    def made(**changes):
        return checkpoints.save(tmp_path / "copy", "patch16", **changes)

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


def test_what_timm_repeats_among_the_arguments_does_no_harm(copy):
    arguments = {**checkpoints.SMALL, "in_chans": 3}
    with network.quiet():
        made = network.load(read_checkpoint(str(copy(model_args=arguments))))
    assert made.model.num_classes == 5


def test_refuses_what_does_not_belong_together(copy):
    refused(copy(label_names=["cat", "dog"]), "no list of 5 names")
    refused(copy(num_classes=7, label_names=None), "size mismatch")
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
    refused(folder, "prepares pictures of 48x48 and takes 32x32")


def test_weights_that_are_missing_are_named(copy):
    folder = copy()
    weights = load_file(folder / "model.safetensors")
    del weights["blocks.0.mlp.fc1.weight"]
    save_file(weights, folder / "model.safetensors")
    refused(folder, "blocks.0.mlp.fc1.weight")


def test_a_pooling_of_tokens_that_are_not_there(folders):
    refused(folders["convnext"], "cls", Request("image-feature-extraction", "cls"))


def _tensor(pictures):
    import torch

    return torch.from_numpy(pictures)
