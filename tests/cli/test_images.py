"""Odd and bad pictures, as `edge classify`, `edge preprocess` and `edge calibrate` take them."""

import json
import shutil

import pytest

from tests.preprocess.picture_files import READ, REFUSED, RGB


def test_classify_labels_the_good_and_names_the_bad(edge_command, built_engine, tmp_path):
    """In their order; a pipe is not waited for, and Pillow's own warnings are not shown."""
    odd = ("palette, alpha.png", "turned 6.jpg", "cmyk of adobe.jpg", "grey of 16 bits.png")
    for name in odd:
        READ[name].make(tmp_path / name)
    for name, (make, _) in REFUSED.items():
        make(tmp_path / name)
    RGB.save(tmp_path / "good.png")
    names = ["good.png", *odd, *REFUSED, "good.png"]
    done = edge_command("classify", built_engine, *names, "--backend", "onnxruntime", cwd=tmp_path)
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == ["good.png", *odd, "good.png"]
    assert rows[0] == rows[-1]
    opened, *errors = done.stderr.splitlines()
    assert "onnxruntime (as requested)" in opened
    for (name, (_, words)), line in zip(REFUSED.items(), errors, strict=True):
        assert line.startswith(f"error: {name} {words}")
        assert "; " in line


def test_classify_ends_well_when_all_pictures_are_read(edge_command, built_engine, tmp_path):
    READ["film.gif"].make(tmp_path / "film.gif")
    done = edge_command("classify", built_engine, tmp_path / "film.gif", "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["pipe.jpg", "cut.jpg", "bomb.png"])
def test_preprocess_names_a_bad_picture_and_writes_nothing(
    edge_command, built_engine, tmp_path, name
):
    make, words = REFUSED[name]
    make(tmp_path / name)
    done = edge_command("preprocess", built_engine, name, "--out", "x.npy", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {name} {words}")
    assert not (tmp_path / "x.npy").exists()


def test_bad_pictures_are_named_and_not_calibrated_with(
    edge_command, fp32_graph, pictures, tmp_path
):
    """The ranges are those of the good ones alone."""
    mixed = shutil.copytree(pictures, tmp_path / "mixed")
    for name, (make, _) in REFUSED.items():
        make(mixed / name)
    ranges = []
    for folder, bad in ((pictures, 0), (mixed, len(REFUSED) - 2)):  # one is absent, one a folder
        words = ["--images", folder, "--method", "minmax", "--out", tmp_path / "ranges.json"]
        done = edge_command("calibrate", fp32_graph, *words)
        assert done.returncode == 0, done.stderr
        named = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert len(named) == bad
        assert all(str(folder) in line for line in named)
        ranges.append(json.loads((tmp_path / "ranges.json").read_text()))
    assert [found["images"] for found in ranges] == [40, 40]
    assert ranges[0]["ranges"] == ranges[1]["ranges"]
