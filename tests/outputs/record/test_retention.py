"""File names that sort by time and fit into a file system, and the reserve of free space."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from edge.errors import StorageError
from edge.outputs.record import retention
from edge.outputs.record.retention import (
    check_free_space,
    file_name,
    time_order,
    timestamp,
    unused_path,
)

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tabby, tabby cat", "tabby-tabby-cat"),
        ("rtsp://***@10.0.0.7:554/stream_1", "rtsp-10-0-0-7-554-stream-1"),
        ("../../etc/passwd", "etc-passwd"),
        ("猫 ☃", "猫"),
        ("☃", "x"),
        ("", "x"),
        ("a" * 300, "a" * 60),
        ("猫" * 300, "猫" * 20),
    ],
)
def test_a_slug_is_valid_in_a_file_name(text: str, name: str) -> None:
    assert file_name(text) == name


def test_timestamps_sort_like_their_times() -> None:
    assert timestamp(0) == "19700101T000000.000Z"
    times = [0.0, 0.001, 0.9999, 1.0, 1738318502.123, 1738318502.2]
    assert sorted(map(timestamp, times)) == list(map(timestamp, times))


def test_names_sort_by_time_and_then_by_their_number() -> None:
    early, late = timestamp(0), timestamp(0.001)
    names = [f"{early}-gate-7.jpg", *(f"{early}-gate-7-{number}.jpg" for number in range(2, 12))]
    names += [f"{early}-gate-70.jpg", f"{late}-a-x.jpg", f"{late}-gate-7.jpg"]
    assert sorted(set(names), key=time_order) == names


def test_a_name_in_use_gets_a_number(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    assert unused_path(path) == path
    path.touch()
    assert unused_path(path).name == "video-2.mkv"
    (tmp_path / "video-2.mkv").touch()
    assert unused_path(path).name == "video-3.mkv"


def test_a_name_too_long_raises_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"File name too long\); give it a shorter name"):
        unused_path(tmp_path / f"{'x' * 300}.mkv")


@pytest.mark.parametrize(
    ("total", "free", "full"),
    [
        (16e9, 600e6, False),
        (16e9, 400e6, True),
        (4e9, 210e6, False),
        (4e9, 190e6, True),
        (2e12, 501e6, False),
        (2e12, 499e6, True),
    ],
)
def test_the_reserve_is_5_percent_of_the_disk_and_at_most_500_mb(
    total: float, free: float, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    if not full:
        check_free_space(tmp_path)
        return
    with pytest.raises(StorageError, match=r"is full: \d+ MB are left.*; free some space"):
        check_free_space(tmp_path)


def test_a_real_full_disk_is_refused(small_disk: Path) -> None:
    check_free_space(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))
    with pytest.raises(StorageError, match="0 MB are left"):
        check_free_space(small_disk)
    filler.unlink()
    check_free_space(small_disk)


def test_a_missing_folder_raises_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        check_free_space(tmp_path / "gone")
