import json
import shutil

import pytest

from edge.build.models.checkpoint import read_checkpoint
from edge.errors import CheckpointError
from edge.preprocess.spec import Resize


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "vit")


def edit(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_reads_labels_preprocessing_and_files(checkpoint):
    found = read_checkpoint(str(checkpoint))
    assert found.head.labels == ("cat", "dog", "fox", "owl", "bee")
    assert found.preprocess.resize == Resize("stretch", 32, 32)
    assert [path.name for path in found.files] == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def refused(folder, named, mend=""):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(folder))
    assert named in caught.value.what, str(caught.value)
    assert mend in caught.value.mend
    assert "\n" not in str(caught.value)


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nothing", "there is no checkpoint")


def test_a_hub_id_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("someone/some-vit", "no route to host", "network")


def test_a_hub_id_is_fetched_without_pickles_or_code(monkeypatch, checkpoint):
    import huggingface_hub

    asked = {}

    def download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert read_checkpoint("someone/some-vit").name == "someone/some-vit"
    patterns = ["*.json", "*.safetensors", "merges.txt", "*.model"]  # the last two of tokenizers
    assert asked == {"name": "someone/some-vit", "patterns": patterns}


def test_pickled_weights_are_refused_unopened(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"would run code")
    refused(copy, "pickled weights", "safetensors")


def test_no_weights_at_all(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "has no weights")


def test_weights_that_were_cut_off(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(copy, "model.safetensors is corrupt", "again")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_corrupt_config(copy, text):
    (copy / "config.json").write_text(text)
    refused(copy, "config.json")


def test_no_config(copy):
    (copy / "config.json").unlink()
    refused(copy, "has no config.json")


def test_no_processor(copy):
    (copy / "preprocessor_config.json").unlink()
    refused(copy, "has no preprocessor_config.json", "processor.save_pretrained")


@pytest.mark.parametrize(
    "kind", ["BertForSequenceClassification", "DetrForObjectDetection", "YolosForObjectDetection"]
)
def test_what_reads_texts_or_detects_objects(tmp_path, kind):
    import transformers

    config = getattr(transformers, f"{kind.partition('For')[0]}Config")
    config(architectures=[kind]).save_pretrained(tmp_path)
    refused(tmp_path, f"{kind}, which is no vision transformer that", "DINOv2")


def test_another_head_of_a_family(copy):
    edit(copy, architectures=["ViTForMaskedImageModeling"])
    refused(copy, "ViTForMaskedImageModeling", "of ViT it builds: ViTForImageClassification")


def test_labels_with_a_hole(copy):
    edit(copy, id2label={"0": "cat", "2": "dog"})
    refused(copy, "id2label")


def test_a_processor_of_another_size(copy):
    edit(copy, image_size=64)
    refused(copy, "(32, 32)")


def test_grey_pictures(copy):
    edit(copy, num_channels=1)
    refused(copy, "1 channels")


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": "64"},
        {"image_size": 64.0},
        {"image_size": [64]},
        {"image_size": 0},
        {"id2label": ["cat", "dog"]},
        {"id2label": None, "num_labels": "two"},
        {"architectures": "ViT"},
        {"architectures": []},
    ],
)
def test_a_config_of_odd_types_is_refused(copy, change):
    edit(copy, **change)
    refused(copy, next(iter(change)))
