"""The demo's data and training in small: real scans, a real video, real fine-tuning."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts import train_demo
from scripts.demo import digits as demo_digits
from scripts.demo import make_video as make_demo_video
from scripts.demo import run as demo

ROOT = Path(__file__).resolve().parents[2]


def test_training_never_uses_held_out_scans_or_photo():
    train, held = demo_digits.split()
    assert (len(train.labels), len(held.labels)) == (1400, 397)
    trained = {scan.tobytes() for scan in train.ink}
    assert not [scan for scan in held.ink if scan.tobytes() in trained]
    assert demo_digits.TRAIN_PHOTO != demo_digits.HELD_OUT_PHOTO


def test_a_drawn_digit_stands_out_from_its_background():
    train, _ = demo_digits.split()
    rng = np.random.default_rng(0)
    photo = demo_digits.photo(demo_digits.TRAIN_PHOTO)
    for scan in train.ink[:20]:
        drawn = demo_digits.render(scan, rng, photo)
        assert drawn.shape == (64, 64, 3)
        assert drawn.dtype == np.uint8
        assert drawn.max() > 150


def test_the_video_has_a_digit_for_every_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(make_demo_video, "DIGITS", 2)
    monkeypatch.setattr(make_demo_video, "FRAMES_EACH", 4)
    make_demo_video.render(tmp_path / "video.mp4")
    truth = json.loads((tmp_path / "video.json").read_text())
    assert len(truth["digits"]) == 8
    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (
        1280,
        720,
    )
    assert video.get(cv2.CAP_PROP_FPS) == 30
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    codec = int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert codec in (b"avc1", b"h264")


def test_the_shipped_checkpoint_is_small_and_valid():
    from edge.builder.models.checkpoint import read_checkpoint

    folder = ROOT / "scripts/demo/vit"
    assert (folder / "model.safetensors").stat().st_size <= 4e6
    assert read_checkpoint(str(folder)).head.labels == tuple("0123456789")


@pytest.mark.slow
def test_any_checkpoint_is_fine_tuned_on_a_folder_of_images(pictures, tmp_path):
    """With another number of classes the checkpoint gets a new head, with the folders' names."""
    folder = tmp_path / "photos"
    for name in ("cat", "dog", "owl"):
        (folder / name).mkdir(parents=True)
        for path in (pictures / name).iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
    half = ROOT / "scripts/demo/vit"  # saved in half precision; training in it would diverge
    out = tmp_path / "mine"
    words = ["--images", folder, "--checkpoint", half, "--epochs", "1", "--out", out]
    command = [sys.executable, "-m", "scripts.train_demo", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "owl"}
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def refused(monkeypatch, *words):
    """The exit status of `train_demo.py WORDS`: a code, or the message on stderr."""
    monkeypatch.setattr(sys, "argv", ["train_demo.py", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        train_demo.main()
    return caught.value.code


@pytest.mark.parametrize("words", [["--images", "x"], ["--checkpoint", "x"]])
def test_images_need_a_checkpoint_and_vice_versa(monkeypatch, capsys, words):
    assert refused(monkeypatch, *words) == 2
    assert "--images and --checkpoint go together" in capsys.readouterr().err


def test_a_missing_folder_is_reported_in_one_line(monkeypatch, tmp_path):
    words = ["--images", tmp_path / "absent", "--checkpoint", "x", "--out", tmp_path / "out"]
    line = refused(monkeypatch, *words)
    assert line.startswith(f"error: there is no folder {tmp_path / 'absent'}; ")
    assert "\n" not in line


def test_the_error_for_a_flat_folder_names_the_needed_layout(monkeypatch, tmp_path, pictures):
    for path in pictures.rglob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    words = ["--images", tmp_path, "--checkpoint", "x", "--out", tmp_path / "out"]
    line = refused(monkeypatch, *words)
    assert "has 0 folders with 0 images in them (40 more are in no folder); make a folder" in line
    assert f"such as {tmp_path}/cat and {tmp_path}/dog, with at least 10" in line


def test_the_demo_fails_below_its_thresholds():
    good = {"top1": 96.5, "top1_fp32": 96.9}
    bad = {"top1": 96.3, "top1_fp32": 96.9}
    assert demo.shortfalls({"portable": good, "device": good}, 95.0) == []
    assert "model.plan" in demo.shortfalls({"portable": good, "device": bad}, 99.0)[0]
    assert "94.90 %" in demo.shortfalls({"portable": good}, 94.9)[0]


def test_a_frame_is_right_if_the_video_shows_its_label_at_its_time():
    truth = {"fps": 30, "digits": [1, 1, 1, 2, 2, 2]}
    lines = [{"pts": n / 30, "top": [{"label": label}]} for n, label in enumerate("111211")]
    assert demo.share_right(lines, truth) == pytest.approx(100 * 4 / 6)
