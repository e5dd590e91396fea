import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import Request
from edge.errors import CheckpointError
from edge.preprocess.spec import Resize
from scripts.models.tiny_models import save

DEFAULT = Request()


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


def refused(folder, named, hint=""):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(folder))
    assert named in caught.value.problem, str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nothing", "there is no checkpoint")


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("model.onnx", "is an ONNX graph, not a checkpoint", "add: --graph {path}"),
        ("model.plan", "is a TensorRT plan", "the folder of the Hugging Face checkpoint"),
        ("model.safetensors", "is a file, not the folder of a checkpoint", "such as {folder}"),
    ],
)
def test_a_file_is_named_as_what_it_is(tmp_path, name, problem, hint):
    path = tmp_path / name
    path.touch()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(path))
    assert problem in caught.value.problem
    assert hint.format(path=path, folder=tmp_path) in caught.value.hint


@pytest.mark.parametrize("base", [True, False])
def test_a_peft_adapter_is_refused_with_the_command_that_merges_it(copy, base):
    """Beside its base it was ignored, or applied if peft was installed, and not in the key."""
    adapter = {
        "base_model_name_or_path": "google/vit-base-patch16-224",
        "auto_mapping": {"base_model_class": "ViTForImageClassification"},
    }
    (copy / "adapter_config.json").write_text(json.dumps(adapter))
    if not base:
        (copy / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(copy))
    assert "is a PEFT adapter (adapter_config.json)" in caught.value.problem
    code = shlex.split(caught.value.hint.partition("python -c ")[2])
    assert len(code) == 1
    compile(code[0], "", "exec")
    assert "t.ViTForImageClassification.from_pretrained(b)" in code[0]
    assert f'PeftModel.from_pretrained(m, "{copy}").merge_and_unload()' in code[0]


def test_pickled_weights_are_refused_unopened(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"would run code")
    refused(copy, "pickled weights", "safetensors")


def test_no_weights_at_all(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "has no weights")


def shard(copy):
    """Put one of its tensors into another file, as large checkpoints are saved."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    first, *others = weights
    places = {first: "model-00001-of-00002.safetensors"}
    places |= dict.fromkeys(others, "model-00002-of-00002.safetensors")
    for name in set(places.values()):
        part = {key: weights[key] for key, place in places.items() if place == name}
        save_file(part, copy / name, {"format": "pt"})
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_the_weights_are_the_single_file_or_the_shards_of_the_index(copy):
    names = {"open_clip_model.safetensors", "model_ema.safetensors", "adapter_model.safetensors"}
    for name in names:
        (copy / name).write_bytes(b"never read")
    files = {path.name for path in read_checkpoint(str(copy)).files}
    assert "model.safetensors" in files
    assert not files & names
    shard(copy)
    files = {path.name for path in read_checkpoint(str(copy)).files}
    assert {path.name for path in copy.glob("model-*")} | {"model.safetensors.index.json"} <= files
    assert not files & names


def test_a_missing_shard_and_an_invalid_index(copy):
    shard(copy)
    (copy / "model-00001-of-00002.safetensors").unlink()
    refused(copy, "model-00001-of-00002.safetensors is missing", "again")
    for places in ({}, None, {"a": "../../other.safetensors"}, {"a": 1}):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        refused(copy, "model.safetensors.index.json lists no weight files")


def loaded(folder, request=DEFAULT):
    from edge.builder.models import network

    with network.quiet():
        return network.load(read_checkpoint(str(folder), request))


def test_fewer_labels_than_outputs_are_refused(copy):
    edit(copy, id2label={str(index): f"class {index}" for index in range(7)}, label2id=None)
    with pytest.raises(CheckpointError) as caught:
        loaded(copy)
    assert "5 outputs (classifier.weight), and its config.json 7 labels" in caught.value.problem
    assert "correct id2label in config.json: one label for each of the 5" in caught.value.hint


def test_weights_of_another_model_than_the_config(copy):
    edit(copy, intermediate_size=256)
    with pytest.raises(
        CheckpointError, match=r"of \[128\] among its weights, .* requires \[256\]; use"
    ):
        loaded(copy)


def test_truncated_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(copy, "model.safetensors is corrupt", "again")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_corrupt_config(copy, text):
    (copy / "config.json").write_text(text)
    refused(copy, "config.json")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_of_another_user_is_no_fault_of_the_download(copy, name, monkeypatch):
    """As root, who may run this test, one may read everything."""

    def refuse(path, *words, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    refused(copy, f"{copy / name} cannot be read (Permission denied)", "check the path, its owner")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.backbone."])
@pytest.mark.parametrize("request_", [DEFAULT, Request("image-feature-extraction", "own")])
def test_weights_of_an_object_around_the_model(copy, prefix, request_):
    from safetensors.numpy import load_file, save_file

    path = copy / "model.safetensors"
    weights = {f"{prefix}{key}": value for key, value in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        loaded(copy, request_)
    assert f"weights whose names begin with '{prefix}" in caught.value.problem
    assert f"model.{prefix}" in caught.value.hint
    assert "save_pretrained" in caught.value.hint


def test_weights_of_another_architecture_are_not_those_of_an_object_around_it(copy):
    from safetensors.numpy import load_file, save_file

    path = copy / "model.safetensors"
    weights = load_file(path)
    weights.pop("classifier.bias")
    weights["decoder.classifier.bias"] = weights.pop("classifier.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"has no weights for classifier\.bias, class.*fine-tune"
    ):
        loaded(copy)


@pytest.mark.parametrize(
    ("settings", "method"), [({"quant_method": "bitsandbytes"}, "bitsandbytes"), ("x", "quantizat")]
)
def test_a_quantized_checkpoint_is_refused(copy, settings, method):
    edit(copy, quantization_config=settings)
    refused(copy, f"is quantized already ({method}", "edge build quantizes it")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ImportError("needs accelerate"), "install the package"),
        (PermissionError(13, "Permission denied", "x"), "check the path, its owner"),
        (ValueError("a bad value"), "correct the values in its config.json"),
    ],
)
def test_what_transformers_raises_has_a_hint_of_its_own(copy, error, hint, monkeypatch):
    import transformers

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", fail)
    with pytest.raises(CheckpointError) as caught:
        loaded(copy)
    assert str(error) in caught.value.problem
    assert hint in caught.value.hint


def test_no_config(copy):
    (copy / "config.json").unlink()
    refused(copy, "has no config.json")


def test_no_processor(copy):
    (copy / "preprocessor_config.json").unlink()
    refused(copy, "has no preprocessor_config.json", "processor.save_pretrained")


@pytest.mark.parametrize(
    "kind", ["BertForSequenceClassification", "DetrForObjectDetection", "YolosForObjectDetection"]
)
def test_models_for_text_or_detection_are_refused(tmp_path, kind):
    import transformers

    config = getattr(transformers, f"{kind.partition('For')[0]}Config")
    config(architectures=[kind]).save_pretrained(tmp_path)
    refused(tmp_path, f"{kind}, which vit-edge does not support", "DINOv2")


def test_another_head_of_a_family(copy):
    edit(copy, architectures=["ViTForMaskedImageModeling"])
    refused(copy, "ViTForMaskedImageModeling", "supported for ViT: ViTForImageClassification")


@pytest.mark.parametrize("labels", [{"0": "age"}, None])
def test_a_head_for_regression_has_no_classes(copy, labels):
    """transformers' pipeline returns its outputs unchanged: no sigmoid, no softmax."""
    edit(copy, problem_type="regression", **({"id2label": labels} if labels else {}))
    refused(copy, "trained for regression", "--task image-feature-extraction --pooling mean")
    head = read_checkpoint(str(copy), Request("image-feature-extraction", "mean")).head
    assert (head.labels, head.pooling) == ((), "mean")


def test_labels_with_a_missing_number_are_refused(copy):
    edit(copy, id2label={"0": "cat", "2": "dog"})
    refused(copy, "id2label")


def test_a_label_that_no_file_can_hold_is_refused(copy):
    """The engine was published with a passport that could not be read."""
    edit(copy, id2label={"0": "cat", "1": "\ud800", "2": "fox", "3": "owl", "4": "bee"})
    refused(copy, r"the text '\ud800' is not UTF-8", "UTF-8")


def test_json_is_utf8_whatever_the_locale(copy):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["id2label"]["0"] = "Käuzchen"
    path.write_text(json.dumps(config, ensure_ascii=False), "utf-8")
    code = (
        "import sys; from edge.builder.models.checkpoint import read_checkpoint; "
        "print(ascii(read_checkpoint(sys.argv[1]).head.labels[0]))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy)],
        env={**os.environ, **locale},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == ascii("Käuzchen"), done.stderr


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
        {"num_labels": "two", "id2label": None},
        {"num_labels": 0, "id2label": None},
        {"num_labels": -3, "id2label": None},
        {"architectures": "ViT"},
        {"architectures": []},
    ],
)
def test_a_config_with_wrong_types_is_refused(copy, change):
    edit(copy, **change)
    refused(copy, next(iter(change)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vit", {"patch_size": 0}),
        ("vit", {"patch_size": None}),
        ("vit", {"patch_size": []}),
        ("vit", {"patch_size": "8"}),
        ("swin", {"patch_size": None}),
        ("swin", {"depths": None}),
        ("swin", {"depths": 4}),
        ("swin", {"depths": []}),
    ],
)
def test_a_config_with_invalid_sizes_is_refused(name, change, tmp_path):
    folder = save(name, tmp_path / name, ("cat", "dog"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    ((key, value),) = change.items()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(folder), Request(image_size=64))
    assert f"config.json has {key} {value!r}; correct it" in str(caught.value)
