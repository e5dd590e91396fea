"""The table of models: it covers every family, and is what its figures say."""

import json
import sys
from pathlib import Path

import pytest

from edge.build.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import models_table  # noqa: E402
import tiny_models  # noqa: E402

# Their checkpoints need a tokenizer or timm, and are made where they are tested.
ELSEWHERE = {
    "clip",
    "clip_vision_model",
    "siglip",
    "siglip_vision_model",
    "timm_wrapper",
    "vit_mae",
}
FIGURES = json.loads(models_table.FIGURES.read_text())


def measured(published):
    return [row for row in FIGURES["rows"] if bool(row["published"]) is published]


def test_every_family_has_a_model_and_every_model_three_rows_for_each_task():
    known = {name.partition(" ")[0] for name in tiny_models.MODELS}
    assert known | ELSEWHERE == set(FAMILIES) and not known & ELSEWHERE
    large = {row["model"] for row in measured(True)}
    assert large  # those of --full, which takes long
    for rows, names in ((measured(False), tiny_models.MODELS), (measured(True), large)):
        found = {(row["model"], row["task"], row["precision"]) for row in rows}
        assert found >= {
            (name, models_table.tasks(name)[0], precision)
            for name in names
            for precision in models_table.PRECISIONS
        }


def test_all_that_is_in_the_table_agrees_and_compiles():
    least = {"fp32": 90, "fp16": 40, "int8": 15}
    for row in measured(False):
        assert row["sqnr_db"] > least[row["precision"]], row
    for row in FIGURES["rows"]:
        assert isinstance(row["plan_mb"], float), row
        assert row["precision"] != "fp32" or row["max_error"] < 1e-4 * max(1, row["largest"])
        quantised = row["quantised"]
        assert bool(quantised) is (row["precision"] == "int8")
        assert {"convolution", "classifier"} <= set(row["not_quantised"])


def test_the_page_is_made_of_the_figures():
    assert models_table.TABLE.read_text() == models_table.table(FIGURES)


def test_a_row_says_what_was_measured():
    fp32, fp16, int8 = models_table.measure("convnext", full=False)
    assert (fp32["family"], fp32["task"]) == ("ConvNeXt", "image-classification")
    assert fp32["max_error"] < 1e-4 < fp16["max_error"] < int8["max_error"]
    assert int8["quantised"] == "4 of 4 fc1, 4 of 4 fc2"
    assert int8["not_quantised"] == {"convolution": 6, "classifier": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_a_model_of_published_size_agrees_and_compiles(name):
    for row in models_table.measure(name, full=True):
        assert isinstance(row["plan_mb"], float), row
        assert row["precision"] != "fp32" or row["max_error"] < 1e-4 * max(1, row["largest"])
