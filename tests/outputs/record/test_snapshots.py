"""Snapshots: a rule that fires writes an image and a JSON file; failures are reported."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge.errors import StorageError
from edge.outputs.json_lines import as_json
from edge.outputs.preview import annotate
from edge.outputs.record import snapshots as snapshots_module
from edge.outputs.record.rules import read_rule
from edge.outputs.record.snapshots import Snapshots
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.frame import Frame

TIME = 1738324799.75  # 2025-01-31T11:59:59.750Z
DOG = [read_rule("label='class 7' for 200ms")]


def result(
    guess: Any,
    class_id: int,
    at: float,
    source: str = "gate",
    pixels: Any = None,
    seen: float = TIME,
) -> Result:
    if pixels is None:
        pixels = np.full((240, 320, 3), 90, np.uint8)
    frame = Frame(source, int(at * 10), at, 5.0, "system", Surface.from_rgb(pixels))
    return Result(frame, guess(class_id), 250.0, 10.0, seen)


def sink(folder: Path, warnings: list[str] | None = None, **options: Any) -> Snapshots:
    rules = options.pop("rules", DOG)
    warnings = [] if warnings is None else warnings
    return Snapshots(rules, folder, warnings.append, **options)


def test_a_rule_that_fires_writes_a_labelled_image_and_its_facts(
    guess: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "pictures"
    snapshots = sink(folder)
    shown = [result(guess, 7, number / 10) for number in range(6)]
    for each in shown:
        snapshots.write(each)
    snapshots.close()
    assert sorted(path.name for path in folder.iterdir()) == [
        "20250131T115959.750Z-gate-class-7.jpg",
        "20250131T115959.750Z-gate-class-7.json",
    ]
    assert (snapshots.written, snapshots.lost) == (1, 0)
    with Image.open(folder / "20250131T115959.750Z-gate-class-7.jpg") as picture:
        assert picture.format == "JPEG"
        pixels = np.asarray(picture).astype(int)
    lines = ["class 7  75%", "2025-01-31 11:59:59 UTC, gate"]
    expected = annotate(np.full((240, 320, 3), 90, np.uint8), lines)
    assert np.abs(pixels - expected).mean() < 3, "apart from JPEG compression"
    facts = json.loads((folder / "20250131T115959.750Z-gate-class-7.json").read_text())
    assert facts == {
        "rules": ["label='class 7' for 200ms"],
        "picture": "20250131T115959.750Z-gate-class-7.jpg",
        **json.loads(as_json(shown[2])),
    }
    assert facts["time"] == "2025-01-31T11:59:59.750Z"


def test_without_a_caption_the_frame_is_written_as_it_is(guess: Any, tmp_path: Path) -> None:
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")], caption=False)
    snapshots.write(result(guess, 7, 0.0))
    snapshots.close()
    [path] = tmp_path.glob("*.jpg")
    with Image.open(path) as picture:
        assert np.abs(np.asarray(picture).astype(int) - 90).max() <= 2


def test_rules_that_fire_together_share_a_snapshot(guess: Any, tmp_path: Path) -> None:
    rules = [read_rule("label='class 7'"), read_rule("confidence>0.5"), read_rule("source=yard")]
    snapshots = sink(tmp_path, rules=rules)
    snapshots.write(result(guess, 7, 0.0))
    snapshots.close()
    [facts] = tmp_path.glob("*.json")
    assert json.loads(facts.read_text())["rules"] == ["label='class 7'", "confidence>0.5"]


def test_snapshots_of_the_same_time_do_not_overwrite_each_other(guess: Any, tmp_path: Path) -> None:
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")])
    for source in ("a/b", "a-b"):
        snapshots.write(result(guess, 7, 0.0, source))
    snapshots.close()
    assert len(list(tmp_path.glob("*.jpg"))) == len(list(tmp_path.glob("*.json"))) == 2
    for picture in tmp_path.glob("*.jpg"):
        facts = json.loads(picture.with_suffix(".json").read_text())
        assert facts["picture"] == picture.name


def test_a_disconnect_resets_the_hold_time(guess: Any, tmp_path: Path) -> None:
    snapshots = sink(tmp_path)
    snapshots.write(result(guess, 7, 0.0))
    snapshots.changed(Transition("gate", "waiting", "unplugged"))
    snapshots.changed(Transition("gate", "playing", outage=0.1))
    snapshots.write(result(guess, 7, 0.25))
    snapshots.close()
    assert list(tmp_path.iterdir()) == []


def test_a_queued_snapshot_does_not_hold_the_camera_s_buffer(guess: Any, tmp_path: Path) -> None:
    pixels = np.full((240, 320, 3), 90, np.uint8)
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")])
    for source in ("a", "b", "c", "d"):
        snapshots.write(result(guess, 7, 0.0, source, pixels=pixels))
    pixels[:] = 255  # the camera writes its next frame there
    snapshots.close()
    paths = list(tmp_path.glob("*.jpg"))
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as picture:
            assert np.asarray(picture)[:200].max() < 110


def test_keep_removes_the_oldest_snapshots_and_no_other_files(guess: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").touch()
    (tmp_path / "20240101T000000.000Z-gate-cat.jpg").touch()
    (tmp_path / "20240101T000000.000Z-gate-cat.json").touch()
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")], keep=2)
    for source in ("a", "b", "c"):
        snapshots.write(result(guess, 7, 0.0, source))
    snapshots.close()
    names = sorted(path.name.partition("Z-")[2] or path.name for path in tmp_path.iterdir())
    assert names == [
        "b-class-7.jpg",
        "b-class-7.json",
        "c-class-7.jpg",
        "c-class-7.json",
        "mine.jpg",
    ]


def kept(folder: Path) -> list[str]:
    """Sources of the snapshots in a folder; checks that each image has its JSON file."""
    names = {path.stem for path in folder.glob("*.jpg")}
    assert {path.stem for path in folder.glob("*.json")} == names
    assert all(not path.name.startswith(".") for path in folder.iterdir())
    return sorted(name.split("-")[1] for name in names)


def test_keep_keeps_the_newest_even_if_the_wall_clock_was_set_back(
    guess: Any, tmp_path: Path
) -> None:
    """A board without a clock battery starts in the past until it synchronises its clock."""

    def shoot(snapshots: Snapshots, source: str, seen: float) -> None:
        before = snapshots.written
        snapshots.write(result(guess, 7, 0.0, source, seen=seen))
        wait_until(lambda: snapshots.written > before)
        snapshots.write(result(guess, 3, 0.1, source))  # it can fire again after it was false

    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")], keep=3)
    for number in range(4):
        shoot(snapshots, f"a{number}", TIME + number)
    snapshots.close()
    assert kept(tmp_path) == ["a1", "a2", "a3"]
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")], keep=3)
    shoot(snapshots, "b0", TIME - 86400)
    assert kept(tmp_path) == ["a2", "a3", "b0"], "the oldest of the last run was removed"
    shoot(snapshots, "b1", TIME - 2 * 86400)
    shoot(snapshots, "b2", TIME + 86400)
    assert kept(tmp_path) == ["b0", "b1", "b2"]
    shoot(snapshots, "b3", TIME - 3 * 86400)
    shoot(snapshots, "b0", TIME - 86400)  # the same time again: its name is free again
    assert kept(tmp_path) == ["b0", "b2", "b3"]
    snapshots.close()


def test_of_snapshots_of_the_same_time_the_first_is_removed_first(
    guess: Any, tmp_path: Path
) -> None:
    rules = [read_rule("label='class 7'")]
    for _ in range(3):  # separate runs: the next one knows their order only by name
        snapshots = sink(tmp_path, rules=rules)
        snapshots.write(result(guess, 7, 0.0))
        snapshots.close()
    names = {
        path.name.removeprefix("20250131T115959.750Z-gate-") for path in tmp_path.glob("*.jpg")
    }
    assert names == {"class-7.jpg", "class-7-2.jpg", "class-7-3.jpg"}
    snapshots = sink(tmp_path, rules=rules, keep=3)
    snapshots.write(result(guess, 7, 0.0, "yard"))
    snapshots.close()
    assert not (tmp_path / "20250131T115959.750Z-gate-class-7.jpg").exists()
    assert kept(tmp_path) == ["gate", "gate", "yard"]


def test_incomplete_files_of_a_killed_run_are_removed_at_the_next_start_and_nothing_else(
    guess: Any, tmp_path: Path
) -> None:
    snapshots = sink(tmp_path, rules=[read_rule("label='class 7'")])
    snapshots.write(result(guess, 7, 0.0))
    snapshots.close()
    left = [
        ".20250131T120000.000Z-gate-cat.jpg.0f9a3b21",
        ".20250131T120000.000Z-a-b.json.01234567",
    ]
    left += ["20250131T120000.000Z-gate-cat.json"]
    mine = [".mine.jpg.01234567", "mine.json", ".20250131T120000.000Z-gate-cat.jpg.swp", "x.jpg"]
    mine += ["20250131T120000.000Z-gate-cat.mkv", "20250131T120000.000Z.json"]
    for name in left + mine:
        (tmp_path / name).touch()
    before = {path.name for path in tmp_path.iterdir()}
    sink(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == before - {*left}


@pytest.mark.parametrize("floor", [True, False], ids=["below the reserve", "no space at all"])
def test_a_full_disk_is_reported_once_and_every_snapshot_is_tried_and_counted(
    floor: bool, guess: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not floor:  # another process fills the disk after the check
        monkeypatch.setattr(snapshots_module, "check_free_space", lambda _: None)
    warnings: list[str] = []
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    snapshots = sink(small_disk, warnings, rules=[read_rule("label='class 7'")])

    def shoot(number: int) -> None:
        before = snapshots.written + snapshots.lost
        snapshots.write(result(guess, 7, 0.0, f"camera {number}", pixels=noise))
        wait_until(lambda: snapshots.written + snapshots.lost > before)

    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    for number in range(3):
        shoot(number)
    assert (snapshots.written, snapshots.lost) == (0, 3)
    [warning] = warnings
    assert ("is full" if floor else "No space left on device") in warning
    assert "snapshots are lost until this is fixed" in warning
    assert [path.name for path in small_disk.iterdir()] == ["filler"], (
        "no incomplete files are left"
    )
    filler.unlink()
    shoot(3)
    assert warnings[1] == "snapshots are written again after 3 failures"
    snapshots.close()
    assert warnings[2] == "3 snapshots were lost, 1 written"
    assert len(list(small_disk.iterdir())) == 2


def test_a_folder_that_cannot_be_created_is_refused_by_the_constructor(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        sink(tmp_path / "file" / "pictures")


def wait_until(done: Any) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "the condition was not met within half a minute"
        time.sleep(0.01)
