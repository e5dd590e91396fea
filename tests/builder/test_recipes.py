from dataclasses import fields
from pathlib import Path

import pytest

from edge.builder import recipes
from edge.errors import ConfigError, OptionError

ROOT = Path(__file__).resolve().parents[2]


def write(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    return path


def test_the_command_line_overrides_a_recipe(tmp_path):
    path = write(tmp_path, 'checkpoint = "vit"\ncalibration = "photos"\nprecision = "fp16"\n')
    recipe = recipes.load(path, {"precision": "int8", "name": None})
    assert (recipe.checkpoint, recipe.calibration) == ("vit", Path("photos"))
    assert recipe.precision == "int8"
    assert recipe.engine == "vit-int8"


def test_without_a_recipe(tmp_path):
    recipe = recipes.load(None, {"checkpoint": "some/vit", "calibration": Path("photos")})
    assert recipe.engine == "vit-int8"
    with pytest.raises(OptionError, match="no calibration was given"):
        recipes.load(None, {"checkpoint": "some/vit"})


def test_default_names_distinguish_engines():
    def name(**given):
        return recipes.load(
            None, {"checkpoint": "some/vit", "calibration": Path("p"), **given}
        ).engine

    assert name(precision="fp16") == "vit-fp16"
    assert name(task="image-classification") == "vit-int8"
    assert name(image_size=384) == "vit-384-int8"
    assert name(task="image-feature-extraction", image_size=64) == "vit-64-features-int8"
    assert name(task="zero-shot-image-classification") == "vit-zero-shot-int8"
    assert name(image_size=384, name="mine") == "mine"


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("\ncheckpoint = ", 3, "not valid TOML", "correct that line"),
        ('\nprecison = "int8"', 3, "unknown key 'precison'", "did you mean precision?"),
        ('speed = "high"', 2, "unknown key 'speed'", "use one of: checkpoint, calibration"),
        ('max_batch = "four"', 2, 'max_batch cannot be "four"', "a whole number from 1 to 4096"),
        ("max_batch = 0", 2, "max_batch cannot be 0", "as in: max_batch = 4"),
        ('image_size = "384"', 2, 'image_size cannot be "384"', "pixels of a side"),
        ("gate = 1", 2, "gate cannot be 1", "true or false"),
        ('precision = "imt8"', 2, 'precision cannot be "imt8"', "did you mean int8? write one of"),
        ('precision = "best"', 2, 'precision cannot be "best"', "; write one of fp32, fp16, int8"),
        ('task = "feature-extraction"', 2, "task cannot", "did you mean image-feature-extraction?"),
        ('method = "best"', 2, "method cannot be", "one of auto, minmax, percentile, entropy"),
        ("min_agreement = 101", 2, "min_agreement cannot be 101", "a percent above 1"),
        ("min_agreement = 0.99", 2, "min_agreement cannot be 0.99", "as in: min_agreement = 99"),
        ("min_agreement = 0", 2, "min_agreement cannot be 0", "no gate: --no-gate"),
        ("max_drop = 101", 2, "max_drop cannot be 101", "points of top-1, 0 to 100"),
        ('calibration = ""', 2, "calibration cannot be", "a folder of images"),
        ('labels = "a cat,a dog"', 2, "labels cannot be", 'labels = ["a cat", "a dog"]'),
        ('also = [\n"patch",\n"heads"]', 4, "also: unknown place 'heads'", "mean head?"),
        ('ranges = "absent.json"', 2, "there is no file absent.json", "check the path"),
        ('\nname = "../out"', 3, "'../out' is not a valid engine name", "use letters"),
    ],
)
def test_an_error_gives_the_line_and_a_hint(tmp_path, text, line, what, hint):
    path = write(tmp_path, f'checkpoint = "vit"\n{text}\nnormalise = true\n')
    with pytest.raises(ConfigError) as caught:
        recipes.load(path, {"calibration": Path("photos")})
    assert caught.value.problem.startswith(f"{path}:{line}: ")
    assert what in caught.value.problem and hint in str(caught.value)


def test_every_setting_has_a_key_and_its_example_is_right(tmp_path, monkeypatch):
    assert list(recipes.KEYS) == [field.name for field in fields(recipes.Recipe)]
    monkeypatch.chdir(tmp_path)
    for name in ("ranges.json", "trained.onnx"):
        (tmp_path / name).touch()
    needed = [f"{name} = {recipes.KEYS[name].example}" for name in ("checkpoint", "calibration")]
    for name, key in recipes.KEYS.items():
        lines = dict.fromkeys([*needed, f"{name} = {key.example}"])
        assert recipes.load(write(tmp_path, "\n".join(lines)), {})


def test_a_missing_recipe(tmp_path):
    with pytest.raises(ConfigError, match="there is no recipe"):
        recipes.load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.toml")), ids=lambda p: p.name)
def test_the_project_s_own_recipes_are_valid(path):
    assert recipes.load(path, {}).engine == path.stem
