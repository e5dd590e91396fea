"""Folders as the Hub has them give the bytes of the processor that transformers takes for them."""

import json

import numpy as np
import pytest
from PIL import Image

from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.families import FAMILIES, TIMM
from edge.builder.models.tasks import Request
from edge.engine.heads import FEATURES
from edge.preprocess.cpu import Preprocessor
from tests.conftest import draw

PICTURE = draw(np.random.default_rng(4), 250, 333)
# What google/vit-base-patch16-224 says, as all did before processors had types.
UNTYPED = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "size": 224,
}
# transformers takes none for these by itself; the class that their publishers name.
NAMED = {
    "dinov2_with_registers": "BitImageProcessorPil",
    "clip_vision_model": "CLIPImageProcessorPil",
    "siglip_vision_model": "SiglipImageProcessorPil",
}
# DINOv3's processor needs torchvision: `test_dinov3_s_pixels` compares with its resize.
DINOV3 = ("dinov3_vit", "dinov3_convnext")
TYPES = [model_type for model_type in FAMILIES if model_type not in (TIMM, *DINOV3)]


@pytest.fixture
def folder(tmp_path, checkpoint):
    """A model of a type in a folder: made(model_type, {file name: what it says})."""
    weights = checkpoint / "model.safetensors"
    (tmp_path / "model.safetensors").symlink_to(weights)

    def made(model_type, files):
        (architecture, *_) = FAMILIES[model_type].tasks
        config = {"model_type": model_type, "architectures": [architecture], "image_size": 224}
        if model_type in ("clip", "siglip"):
            config["vision_config"] = {"image_size": 224}
        for name, says in {"config.json": config, **files}.items():
            (tmp_path / name).write_text(json.dumps(says))
        return tmp_path

    return made


def ours(folder):
    found = read_checkpoint(str(folder), Request(FEATURES))
    return Preprocessor(found.preprocess)(PICTURE)


def theirs(folder, named=None):
    import transformers

    processors = getattr(transformers, named) if named else transformers.AutoImageProcessor
    more = {} if named else {"backend": "pil"}
    processor = processors.from_pretrained(folder, **more)
    return processor(Image.fromarray(PICTURE), return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_processor_without_a_type_is_that_of_the_model(folder, model_type):
    # A number is the shorter side to SigLIP's, which crops nothing.
    own = {"size": {"height": 224, "width": 224}} if model_type.startswith("siglip") else {}
    made = folder(model_type, {"preprocessor_config.json": {**UNTYPED, **own}})
    named = NAMED.get(model_type)
    assert ours(made).tobytes() == theirs(made, named).tobytes()


@pytest.mark.parametrize("model_type", TYPES)
def test_transformers_names_the_same_processor_for_a_type_or_none(model_type):
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {"pil": NAMED.get(model_type)})
    assert known["pil"] == f"{FAMILIES[model_type].processor}ImageProcessorPil"
    assert (model_type in IMAGE_PROCESSOR_MAPPING_NAMES) is (model_type not in NAMED)


def resized(pixels, size):
    """torch's resize with antialiasing, which torchvision calls; pixels: [1, 3, H, W]."""
    import torch

    return torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize("model_type", DINOV3)
def test_dinov3_s_pixels_are_those_of_its_authors(folder, model_type):
    """They resize 8-bit images; transformers resizes floats, which differ by the rounding."""
    import torch

    settings = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": UNTYPED["size"]}
    made = folder(model_type, {"preprocessor_config.json": settings})
    mean, std = (
        torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    pixels = torch.from_numpy(PICTURE.transpose(2, 0, 1)[None].copy())
    found = (torch.from_numpy(ours(made)) * std + mean) * 255  # in grey levels
    authors = abs(found - resized(pixels, (224, 224)))
    assert authors.max() < 1.01 and authors.mean() < 0.01
    transformers = abs(found - resized(pixels.float(), (224, 224)))
    assert transformers.max() < 1.01 and transformers.mean() < 0.3


def test_of_two_processors_the_one_for_texts_and_images_is_used(folder):
    inside = {**UNTYPED, "image_processor_type": "ViTImageProcessor", "image_mean": [0.1] * 3}
    made = folder(
        "vit",
        {
            "preprocessor_config.json": UNTYPED,
            "processor_config.json": {"image_processor": inside, "processor_class": "AnyProcessor"},
        },
    )
    assert ours(made).tobytes() == theirs(made).tobytes()
    (made / "processor_config.json").write_text('{"processor_class": "AnyProcessor"}')
    assert read_checkpoint(str(made), Request(FEATURES)).preprocess.mean == (0.5, 0.4, 0.3)
    assert ours(made).tobytes() == theirs(made).tobytes()


def test_an_invalid_processor_is_named_with_its_file(folder):
    from edge.errors import CheckpointError

    inside = {"image_processor_type": "ViTImageProcessor", "size": "big"}
    made = folder("vit", {"processor_config.json": {"image_processor": inside}})
    with pytest.raises(CheckpointError, match=r"^processor_config\.json has a size of 'big'"):
        read_checkpoint(str(made), Request(FEATURES))


@pytest.mark.parametrize(
    "keys",
    [
        {"_name_or_path": "someone/some-vit", "processor_class": "CLIPProcessor"},
        {"auto_map": {"AutoImageProcessor": "processing.Own"}},
        {"num_channels": 3, "image_seq_length": 576},
        {"transformers_version": "4.30.0", "torch_dtype": "float32"},
        {
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_processor_type": "ViTImageProcessor",
        },
    ],
)
def test_keys_without_effect_are_accepted(folder, keys):
    made = folder("vit", {"preprocessor_config.json": {**UNTYPED, **keys}})
    assert ours(made).tobytes() == theirs(made).tobytes()
