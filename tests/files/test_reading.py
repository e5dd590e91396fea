"""Reading: pipes and devices are refused, where a read would never end or never begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.builder.cache import kept
from edge.builder.graph import load
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.models.texts import read_labels
from edge.builder.precision.ranges import Ranges
from edge.engine.passport import Passport
from edge.errors import EdgeError
from edge.files import toml
from edge.files.reading import check_regular, opened, read_bytes, read_text
from edge.files.storage import digest
from edge.gpu.kernels import _read
from edge.preprocess.images import load_image
from edge.sources.credentials import resolve
from edge.sources.diagnostics import trusted_file


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa4\r\nb")
    (tmp_path / "link").symlink_to(path)
    assert read_bytes(tmp_path / "link") == path.read_bytes()
    assert read_text(path, "utf-8-sig") == "ä\nb"
    assert check_regular(path).st_size == 8


@pytest.mark.parametrize("read", [check_regular, opened, read_bytes, read_text, digest])
def test_anything_else_is_refused_with_the_reason(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "a pipe or a device"),
        (Path("/dev/zero"), "a pipe or a device"),
        (tmp_path, "a folder"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(OSError, match=why) as caught:
            read(path)
        assert caught.value.filename == str(path)


def passport(pipe: Path) -> object:
    return Passport.read(pipe.rename(pipe.with_name("passport.json")).parent)


def config(pipe: Path) -> object:
    return read_checkpoint(str(pipe.rename(pipe.with_name("config.json")).parent))


def processor(pipe: Path) -> object:
    from scripts.models.tiny_models import save

    folder = Path(save("vit", pipe.parent / "vit"))
    (folder / "preprocessor_config.json").unlink()
    pipe.rename(folder / "preprocessor_config.json")
    return read_checkpoint(str(folder))


def label_file(pipe: Path) -> object:
    return read_labels(str(pipe.rename(pipe.with_name("a.txt"))))


def certificates(pipe: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(pipe))
        return trusted_file()


READERS = [
    passport,
    config,
    processor,
    label_file,
    certificates,
    toml.read,
    load,
    load_image,
    Ranges.read,
    lambda pipe: resolve("rtsp://cam/", credentials=pipe),
]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_an_error_wherever_a_file_is_read(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EdgeError, match=r"a pipe or a device|holds no certificates"):
        read(tmp_path / "pipe")


def test_a_pipe_in_a_cache_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")
    assert _read(tmp_path / "kernel") is None
    os.mkfifo(tmp_path / "stage.onnx.sha256")
    warnings: list[str] = []
    assert kept(tmp_path / "stage.onnx", Path.read_bytes, warnings.append) is None
    assert "a pipe or a device" in warnings[0]
