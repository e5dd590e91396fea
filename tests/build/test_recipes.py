from pathlib import Path

import pytest

from edge.build import recipes
from edge.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]


def write(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    return path


def test_a_recipe_and_what_the_command_line_adds(tmp_path):
    path = write(tmp_path, 'checkpoint = "vit"\ncalibration = "photos"\nprecision = "fp16"\n')
    recipe = recipes.load(path, {"precision": "int8", "name": None})
    assert (recipe.checkpoint, recipe.calibration) == ("vit", Path("photos"))
    assert recipe.precision == "int8"
    assert recipe.engine == "vit-int8"


def test_without_a_recipe(tmp_path):
    recipe = recipes.load(None, {"checkpoint": "some/vit", "calibration": Path("photos")})
    assert recipe.engine == "vit-int8"
    with pytest.raises(EngineError, match="no calibration was given"):
        recipes.load(None, {"checkpoint": "some/vit"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("checkpoint = ", "not valid TOML"),
        ('speed = "high"', "unknown setting speed"),
        ('max_batch = "four"', "max_batch"),
        ("gate = 1", "gate"),
        ('precision = "int4"', "fp32, fp16, int8"),
        ('method = "best"', "entropy"),
        ("max_batch = 0", "max_batch"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, named):
    path = write(tmp_path, f'{text}\nname = "a"\n')
    with pytest.raises(EngineError, match=named):
        recipes.load(path, {"checkpoint": "vit", "calibration": Path("photos")})


def test_a_missing_recipe(tmp_path):
    with pytest.raises(EngineError, match="there is no recipe"):
        recipes.load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.toml")), ids=lambda p: p.name)
def test_the_project_s_own_recipes_are_valid(path):
    assert recipes.load(path, {}).engine == path.stem
