"""Zero-shot: the text model runs once, and the engine agrees with transformers' pipeline."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import edge
from edge.builder import graph, image_sets
from edge.builder.models import folders, network
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.tasks import TEMPLATE, Request
from edge.builder.models.texts import read_labels
from edge.builder.pipeline import build
from edge.builder.precision import fp16, placement
from edge.builder.precision.sites import linears
from edge.builder.recipes import Recipe, load
from edge.engine.heads import ZERO_SHOT
from edge.engine.passport import Passport
from edge.errors import CheckpointError, ConfigError
from scripts.models.tiny_models import save
from tests.builder.conftest import compiled
from tests.conftest import Recorder, needs_rtx

LABELS = ("a cat", "a dog", "an owl")
BOTH = pytest.mark.parametrize("name", ["clip", "siglip"])
TWO = ("a photo of {}.", "{} in the snow")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    made = {name: save(name, folder / name) for name in ("clip", "siglip")}
    return {**made, "siglip2": save("siglip", folder / "siglip2", tokenizer="siglip 2")}


@pytest.fixture(scope="module")
def engines(saved, pictures, tmp_path_factory):
    """A folder with an FP32 engine of each, where another build finds its graph."""
    folder = tmp_path_factory.mktemp("engines")
    for name in ("clip", "siglip"):
        settings = {"labels": LABELS, "precision": "fp32", "engines": folder}
        build(Recipe(str(saved[name]), pictures, name=name, **settings), Recorder())
    return folder


@pytest.fixture(scope="module")
def simple(saved, pictures, engines):
    """name -> checkpoint, its simplified graph, pictures."""

    def made(name):
        found = read_checkpoint(str(saved[name]), Request(labels=LABELS))
        few = image_sets.prepare_first(image_sets.find(pictures), found.preprocess, 8, print)
        return found, graph.load(engines / name / "model.onnx"), few

    return made


def tokens(folder, prompts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    how = {"padding": "max_length", "max_length": 64} if "siglip" in folder.name else {}
    return tokenizer(prompts, return_tensors="pt", **{"padding": True, **how})


@BOTH
def test_probabilities_are_those_of_logits_per_image(saved, simple, name):
    from transformers import AutoModel

    found, model, few = simple(name)
    whole = AutoModel.from_pretrained(saved[name]).eval()
    prompts = [f"This is a photo of {label}." for label in LABELS]
    with torch.inference_mode():
        output = whole(pixel_values=torch.from_numpy(few), **tokens(saved[name], prompts))
    logits = output.logits_per_image
    expected = logits.sigmoid() if name == "siglip" else logits.softmax(1)
    given = found.head.probabilities(graph.session(model).logits(few))
    np.testing.assert_allclose(given, expected.numpy(), atol=2e-5)
    assert np.ptp(given, axis=1).max() > 0.01  # labels differ
    assert found.head.templates == (TEMPLATE,)


@BOTH
def test_an_engine_agrees_with_the_pipeline(saved, pictures, engines, name):
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, pipeline

    passport = Passport.read(engines / name)
    assert (passport.head.task, passport.labels) == (ZERO_SHOT, LABELS)
    assert passport.head.templates == (TEMPLATE,)
    processor = CLIPImageProcessorPil if name == "clip" else SiglipImageProcessorPil
    pipe = pipeline(
        ZERO_SHOT,
        model=str(saved[name]),
        image_processor=processor.from_pretrained(saved[name]),
    )
    path = image_sets.find(pictures)[5]
    says = pipe(Image.open(path), candidate_labels=list(LABELS))
    with edge.load(engines / name, backend="onnxruntime") as model:
        top = model(path).top(3)
    assert [label for _, label, _ in top] == [one["label"] for one in says]
    assert [sure for _, _, sure in top] == pytest.approx([one["score"] for one in says], abs=2e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_several_templates_are_averaged_as_clip_s_authors_do(saved, name):
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(saved[name]).eval()
    picture = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rows = []
        for label in LABELS:
            prompts = [template.replace("{}", label) for template in TWO]
            found = whole.get_text_features(**tokens(saved[name], prompts)).pooler_output
            mean = (found / found.norm(dim=1, keepdim=True)).mean(0)
            rows.append(mean / mean.norm())
        seen = whole.get_image_features(picture).pooler_output
        cosines = seen / seen.norm(dim=1, keepdim=True) @ torch.stack(rows).T
        expected = cosines * whole.logit_scale.exp() + getattr(whole, "logit_bias", 0)
        request = Request(labels=LABELS, templates=TWO)
        with network.quiet():
            given = network.load(read_checkpoint(str(saved[name]), request))(picture)
    np.testing.assert_allclose(given, expected, atol=1e-4)


@BOTH
def test_the_vision_half_is_quantised_and_the_text_matrix_is_not(simple, name):
    _, model, _ = simple(name)
    shapes = {tuple(graph.Index(model).weights[one.weight].dims) for one in linears(model)}
    assert shapes and not [shape for shape in shapes if len(LABELS) in shape]
    assert len(linears(model)) == {"clip": 8, "siglip": 11}[name]  # with the pooling's k, v, proj
    assert not [tensor.name for tensor in model.graph.initializer if "text" in tensor.name]


@BOTH
def test_fp16_and_int8_stay_near(saved, simple, pictures, engines, name):
    _, model, few = simple(name)
    reference = graph.session(model).logits(few)
    half = fp16.to_fp16(model, fp16.find_fp32_nodes(model, fp16.peaks(model, few)))
    assert abs(graph.session(half).logits(few) - reference).max() < 0.02
    recipe = Recipe(
        str(saved[name]),
        pictures,
        name=f"{name}-int8",
        labels=LABELS,
        engines=engines,
        min_agreement=50,
    )
    passport = build(recipe, Recorder()).passport
    assert passport.precision == "int8"
    assert min(one.sqnr_db for one in passport.accuracy.values()) > 25
    assert placement.check(graph.load(engines / f"{name}-int8/model.onnx")) == len(linears(model))


@needs_rtx
@BOTH
def test_tensorrt_compiles_it_in_fp16(simple, tmp_path, name):
    _, model, _ = simple(name)
    assert compiled(fp16.to_fp16(model), tmp_path)


def refused(folder, request, named, hint=""):
    with pytest.raises(CheckpointError) as caught:
        found = read_checkpoint(str(folder), request)
        with network.quiet():
            network.load(found)
    assert named in caught.value.problem, str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("request_", "named", "hint"),
    [
        (Request(), "which needs labels", '--labels "a cat,a dog"'),
        (Request(labels=("a", "")), "one of the labels is empty", "--labels"),
        (Request(labels=("a", "\udce9")), r"'\udce9' is not UTF-8", "UTF-8"),
        (Request(labels=("a", "b", "a")), "'a' is given twice", "once"),
        (Request(labels=("a",)), "a single label always has 100 %", "add"),
        (
            Request(labels=LABELS, templates=("a photo",)),
            "'a photo' must contain {} once",
            "--template",
        ),
        (
            Request(labels=LABELS, templates=("{} {}",)),
            "'{} {}' must contain {} once",
            "--template",
        ),
        (Request(labels=("a", "b" * 80)), "takes 77", "shorten"),
    ],
)
def test_invalid_labels_are_refused(saved, request_, named, hint):
    refused(saved["clip"], request_, named, hint)


def test_siglip_takes_a_single_label_and_refuses_one_that_is_too_long(saved):
    one = read_checkpoint(str(saved["siglip"]), Request(labels=("a cat",)))
    assert one.head.activation == "sigmoid"
    refused(saved["siglip"], Request(labels=("dog " * 64,)), "takes 64")  # the pipeline cuts it off


def test_labels_are_refused_for_a_classifier(checkpoint):
    refused(checkpoint, Request(labels=LABELS), "--labels and --template are for zero-shot")
    refused(checkpoint, Request(templates=TWO), "--labels and --template are for zero-shot")


@BOTH
def test_a_missing_damaged_or_foreign_tokenizer_is_refused(saved, tmp_path, name):
    words = {"clip": "tokenizer.json", "siglip": "spiece.model"}[name]
    folder = shutil.copytree(saved[name], tmp_path / "copy")
    (folder / words).write_bytes((saved[name] / words).read_bytes()[:99])
    refused(folder, Request(labels=LABELS), "cannot be loaded", "save_pretrained")
    (folder / words).unlink()
    refused(folder, Request(labels=LABELS), "has no tokenizer", "save_pretrained")


def test_a_model_of_sentencepiece_that_is_not_read_does_not_ask_for_it(
    saved, tmp_path, monkeypatch
):
    folder = shutil.copytree(saved["clip"], tmp_path / "copy")
    (folder / "spiece.model").write_bytes(b"not read")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with network.quiet():
        assert network.load(read_checkpoint(str(folder), Request(labels=LABELS)))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(saved, tmp_path):
    from transformers import CLIPTokenizer

    folder = shutil.copytree(saved["clip"], tmp_path / "copy")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["cat"])
    tokenizer.save_pretrained(folder)
    refused(folder, Request(labels=LABELS), "gives token 514, its text model has 514 words")


def test_the_tokenizer_is_fetched_and_belongs_to_the_fingerprint(saved):
    assert {"tokenizer.json", "vocab.json", "merges.txt", "*.model"} <= {*folders.FETCHED}
    found = read_checkpoint(str(saved["siglip"]), Request(labels=LABELS))
    assert {"spiece.model", "tokenizer_config.json"} <= {path.name for path in found.files}
    files = {
        path.name for path in read_checkpoint(str(saved["clip"]), Request(labels=LABELS)).files
    }
    assert {"tokenizer.json", "tokenizer_config.json"} <= files


@pytest.mark.parametrize("name", ["labels.txt", "LABELS.TXT"])
def test_a_file_of_labels_may_have_a_byte_order_mark(name, tmp_path):
    (tmp_path / name).write_bytes("\N{BYTE ORDER MARK}a cat\r\na dog\r\n".encode())
    assert read_labels(str(tmp_path / name)) == ["a cat", "a dog"]


def test_file_names_are_refused_as_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    for text, named in [
        ("labels.csv", "labels.csv is named like a file"),
        ("a cat,labels.JSON", "labels.JSON is named like a file"),
        ("cat", "cat is an existing file or folder"),
        (str(tmp_path), "is an existing file or folder"),
    ]:
        with pytest.raises(
            CheckpointError, match=r"a \.txt file with one label per line"
        ) as caught:
            read_labels(text)
        assert named in caught.value.problem
    assert read_labels("cat,") == ["cat"]  # as the mend says
    assert read_labels("cat,dog") == ["cat", "dog"]
    assert read_labels("St.Bernard") == ["St.Bernard"]
    assert read_labels("x" * 5000) == ["x" * 5000]


def test_labels_come_from_the_command_a_file_or_a_recipe(tmp_path):
    assert read_labels("a cat, a dog") == ["a cat", "a dog"]
    (tmp_path / "labels.txt").write_text("a cat, asleep\n\na dog\n")
    assert read_labels(str(tmp_path / "labels.txt")) == ["a cat, asleep", "a dog"]
    assert read_labels("a cat, a dog,") == ["a cat", "a dog"]
    with pytest.raises(CheckpointError, match=r"absent\.txt cannot be read"):
        read_labels("absent.txt")
    (tmp_path / "a.toml").write_text(
        'checkpoint = "clip"\ncalibration = "photos"\n'
        'labels = ["a cat", "a dog"]\ntemplates = ["a photo of {}."]\n'
    )
    assert load(tmp_path / "a.toml", {}).request == Request(
        labels=("a cat", "a dog"), templates=("a photo of {}.",)
    )
    (tmp_path / "a.toml").write_text('checkpoint = "clip"\nlabels = "a cat"\n')
    with pytest.raises(ConfigError, match=r'a\.toml:2: labels cannot be "a cat"; write a list'):
        load(tmp_path / "a.toml", {})
