"""--image-size: the network is the one that transformers interpolates on every call."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from edge.builder import export as exporting
from edge.builder import graph
from edge.builder.models import network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import Request
from edge.cli.build import app
from edge.errors import CheckpointError
from scripts.models import tiny_timm
from scripts.models.tiny_models import MODELS, save

LABELS = ("cat", "dog", "fox")
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


def pixels(side, count=2):
    values = np.random.default_rng(0).standard_normal((count, 3, side, side))
    return values.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("side", [24, 48])
def test_a_vit_equals_transformers_with_interpolation(checkpoint, side):
    import torch
    from transformers import AutoModelForImageClassification

    found = read_checkpoint(str(checkpoint), Request(image_size=side))
    assert (found.preprocess.height, found.preprocess.width) == (side, side)
    model, _ = exporting.export(found, pixels(side))
    theirs = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        pictures = torch.from_numpy(pixels(side))
        expected = theirs(pictures, interpolate_pos_encoding=True).logits.numpy()
    assert graph.session(model).logits(pixels(side)) == pytest.approx(expected, abs=1e-4)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Resize", "Floor", "Cast"}  # nothing of it is left to the device


# How each family keeps its positions: as a parameter, with a token more, looked at on every call,
# or as a table that is indexed; and where the sizes are of the side of pictures only.
@pytest.mark.parametrize(
    "kind", ["ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "CLIPVision", "SiglipVision"]
)
def test_positions_are_those_that_transformers_interpolates(kind):
    import torch
    import transformers

    from edge.builder.models.resolution import interpolate

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY))
    model = model.eval()
    flag = {} if kind.startswith("Dinov2") else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        pictures = torch.from_numpy(pixels(48))
        expected = model(pictures, **flag).last_hidden_state
    interpolate(model, 48)
    with torch.inference_mode():
        assert torch.equal(model(pictures).last_hidden_state, expected)


CLASSIFIERS = [
    name
    for name, model in MODELS.items()
    if "Classification" in model.architecture and "Timm" not in model.architecture
]

# Those whose positions are told to interpolate; the others do it on every call, or have none.
TOLD = ("vit", "deit", "deit distilled", "beit", "swin", "swinv2", "clip classifier")
TOLD += ("siglip classifier", "ijepa", "vit_msn", "metaclip_2 classifier")


def agrees(found):
    """Assert that a checkpoint's network equals transformers' for pictures of this size."""
    import torch
    from transformers import AutoModelForImageClassification

    folder, side = found.folder, found.image_size
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    flag = {"interpolate_pos_encoding": True} if folder.parent.name in TOLD else {}
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(pixels(side)), **flag).logits
        assert abs(expected - expected.mean(0)).max() > 0.02  # the pictures matter
        with network.quiet():
            module = network.load(found)
            torch.testing.assert_close(module(torch.from_numpy(pixels(side))), expected)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_family_equals_transformers(name, tmp_path):
    agrees(doubled(name, tmp_path / name))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_relative_position_bias": False, "use_shared_relative_position_bias": True},
        {"use_relative_position_bias": False, "use_absolute_position_embeddings": True},
    ],
)
@pytest.mark.parametrize("side", [24, 80])
def test_a_beit_equals_transformers_for_every_kind_of_positions(changes, side, tmp_path):
    folder = save("beit", tmp_path / "beit/checkpoint", LABELS, **changes)
    agrees(read_checkpoint(str(folder), Request(image_size=side)))


@pytest.mark.parametrize("changes", [{}, {"pretrained_window_sizes": [6, 3]}])
@pytest.mark.parametrize("side", [24, 80])
def test_a_swinv2_equals_transformers_with_padded_windows(changes, side, tmp_path):
    folder = save("swinv2", tmp_path / "swinv2/checkpoint", LABELS, **changes)
    agrees(read_checkpoint(str(folder), Request(image_size=side)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_exported_graph_equals_transformers(name, tmp_path):
    found = doubled(name, tmp_path)
    model, difference = exporting.export(found, pixels(found.image_size))
    assert difference < 1e-4
    assert model.graph.input[0].type.tensor_type.shape.dim[2].dim_value == found.image_size


def doubled(name, folder):
    """A tiny checkpoint, read for pictures of twice its size."""
    saved = str(save(name, folder / "checkpoint", LABELS))
    return read_checkpoint(saved, Request(image_size=2 * read_checkpoint(saved).preprocess.height))


def test_timms_positions_are_those_that_timm_makes(tmp_path):
    import torch

    from edge.builder.models.timm_library import library

    folder = save("timm_wrapper patch16", tmp_path / "timm", LABELS)
    architecture, arguments = tiny_timm.ARCHITECTURES["patch16"]
    theirs = library().create_model(architecture, num_classes=3, **{**arguments, "img_size": 48})
    # What timm does to pretrained weights for the size that a model is made with.
    fit = library().models.vision_transformer.checkpoint_filter_fn
    theirs.load_state_dict(fit(load_file(folder / "model.safetensors"), theirs))
    found = read_checkpoint(str(folder), Request(image_size=48))
    with network.quiet(), torch.inference_mode():
        pictures = torch.from_numpy(pixels(48))
        ours = network.load(found)(pictures)
        assert torch.allclose(ours, theirs.eval()(pictures), atol=1e-5)


def test_the_trained_size_changes_nothing(checkpoint):
    found = read_checkpoint(str(checkpoint), Request(image_size=32))
    assert found.image_size is None
    assert found.preprocess == read_checkpoint(str(checkpoint)).preprocess


def refused(folder, side, what, hint):
    with pytest.raises(CheckpointError) as caught, network.quiet():
        network.load(read_checkpoint(str(folder), Request(image_size=side)))
    assert what in caught.value.problem
    assert caught.value.hint == hint


def test_a_size_that_does_not_divide_into_patches_is_refused_with_the_nearest(checkpoint, tmp_path):
    refused(checkpoint, 37, "multiples of 8, not 37", "use --image-size 32 or 40")
    refused(checkpoint, 5, "multiples of 8, not 5", "use --image-size 8")
    folder = save("timm_wrapper patch16", tmp_path / "timm", LABELS)
    refused(folder, 50, "multiples of 16, not 50", "use --image-size 48 or 64")
    folder = save("swinv2", tmp_path / "swinv2", LABELS)
    refused(folder, 50, "multiples of 8, not 50", "use --image-size 48 or 56")


def test_a_patch_may_be_given_by_both_of_its_sides(checkpoint, tmp_path):
    import torch

    folder = shutil.copytree(checkpoint, tmp_path / "pair")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": [8, 8]}))
    with network.quiet(), torch.inference_mode():
        pair, number = (
            network.load(read_checkpoint(str(one), Request(image_size=48)))(
                torch.from_numpy(pixels(48))
            )
            for one in (folder, checkpoint)
        )
    assert torch.equal(pair, number)


def test_patches_that_are_not_square_keep_their_pictures(tmp_path):
    folder = save("vit", tmp_path / "vit", LABELS, patch_size=[8, 4])
    with network.quiet():
        network.load(read_checkpoint(str(folder)))
    refused(folder, 48, "cannot be built for images of 48x48 (unsupp", "leave out --image-size")


def swin_of_four_stages(folder, side):
    """The last map has 1/32 of the picture's side; the windows are 4 x 4."""
    save("swin", folder, LABELS, depths=[1] * 4, num_heads=[1] * 4, image_size=side)
    path = folder / "preprocessor_config.json"
    size = {"size": {"height": side, "width": side}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **size}))
    return str(folder)


def test_pictures_whose_last_map_is_smaller_than_a_window_are_refused(tmp_path):
    """transformers then shrinks the window, but not its table of positions."""
    folder = swin_of_four_stages(tmp_path / "swin/checkpoint", 128)
    agrees(read_checkpoint(folder, Request(image_size=160)))
    small = swin_of_four_stages(tmp_path / "small", 96)
    for found, hint in (
        (read_checkpoint(folder, Request(image_size=96)), "choose another --image-size"),
        (read_checkpoint(small), "correct its config.json, or download it again"),
    ):
        with pytest.raises(CheckpointError) as caught:
            exporting.export(found, pixels(96))
        assert "cannot process images of 96x96 (The size of tensor a" in caught.value.problem
        assert caught.value.hint == hint


def test_a_size_beyond_the_limit_is_refused(checkpoint):
    refused(checkpoint, 16384, "not within 1 to 8192", "choose a smaller size")


def test_positions_of_pictures_that_are_not_square_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "wide")
    for name, size in (("config", [32, 64]), ("preprocessor_config", {"height": 32, "width": 64})):
        path = folder / f"{name}.json"
        key = "image_size" if name == "config" else "size"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: size}))
    refused(folder, 48, "only takes images of 64x32", "leave out --image-size")


@pytest.mark.slow
def test_the_commands_take_the_size(checkpoint, pictures, tmp_path):
    """In this process: a new one imports torch for longer than it exports."""
    out = tmp_path / "a.onnx"
    words = ["export", checkpoint, "--images", pictures, "--out", out, "--image-size", 48]
    app([str(word) for word in words], standalone_mode=False)
    shape = graph.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in shape][2:] == [48, 48]
    assert graph.metadata(graph.load(out))["preprocess"]["resize"]["height"] == 48
