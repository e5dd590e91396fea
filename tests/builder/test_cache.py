"""What is kept of earlier builds is believed only while it is what was written."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edge.builder import graph
from edge.builder.cache import keep, kept
from edge.errors import CalibrationError
from edge.files.storage import digest


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A stage's graph, and its weights beside it."""
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "weights")
    made = graph.save(
        helper.make_model(helper.make_graph([], "a", [], [], [weights])), tmp_path / "a.onnx"
    )
    keep(made)
    return made


def test_an_intact_stage_is_kept_without_a_warning(files):
    told = []
    assert kept(files[0], Path.read_bytes, told.append) == files[0].read_bytes()
    assert told == []


def test_an_absent_stage_gives_no_warning(tmp_path):
    told = []
    assert kept(tmp_path / "b.onnx", Path.read_bytes, told.append) is None
    assert told == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_a_changed_file_makes_the_stage_run_again(files, which, damage):
    data = files[which].read_bytes()
    changed = {"cut": data[:50], "changed": b"?" + data[1:], "longer": data + b"?"}
    files[which].write_bytes(changed[damage])
    told = []
    assert kept(files[0], Path.read_bytes, told.append) is None
    assert "is damaged: the stage runs again" in told[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_file_makes_the_stage_run_again(files, which):
    files[which].unlink()
    assert kept(files[0], Path.read_bytes, print) is None


def test_a_file_without_checksum_makes_the_stage_run_again(files):
    files[0].with_name("a.onnx.sha256").unlink()
    told = []
    assert kept(files[0], Path.read_bytes, told.append) is None
    assert "may be incomplete (no checksum): the stage runs again" in told[0]


@pytest.mark.parametrize("note", [b"", b"one word\n", b"\xff\xfe"])
def test_a_checksum_file_without_checksums_is_not_trusted(files, note):
    files[0].with_name("a.onnx.sha256").write_bytes(note)
    told = []
    assert kept(files[0], Path.read_bytes, told.append) is None
    assert told[0].endswith("the stage runs again")


@pytest.mark.parametrize("name", ["other.onnx", "../b.onnx", "/etc/hostname", "a.onnx.data"])
def test_a_note_that_does_not_name_the_file_first_is_not_trusted(files, tmp_path, name):
    """Such a note let a graph with altered weights be published, with an agreement of 100 %."""
    (tmp_path / "other.onnx").write_bytes(b"intact")
    other = tmp_path / "a.onnx.data" if name.startswith("..") else tmp_path / name
    files[0].with_name("a.onnx.sha256").write_text(f"{digest(other)}  {name}\n")
    files[0].write_bytes(b"altered weights")
    told = []
    assert kept(files[0], Path.read_bytes, told.append) is None
    assert told == [f"{files[0]}.sha256 is not a note of a.onnx: the stage runs again"]


def test_a_note_that_leaves_out_the_weights_is_not_trusted(files):
    keep(files[:1])
    files[1].write_bytes(b"?" + files[1].read_bytes()[1:])
    told = []
    assert kept(files[0], Path.read_bytes, told.append) is None
    assert told == [f"{files[0]}.sha256 does not list its weights: the stage runs again"]


def test_a_note_that_also_lists_files_elsewhere_is_not_trusted(files):
    note = files[0].with_name("a.onnx.sha256")
    note.write_text(note.read_text() + f"{digest(Path('/etc/hostname'))}  /etc/hostname\n")
    assert kept(files[0], Path.read_bytes, print) is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("it is of another graph"), "cannot be read (it is of another graph)"),
        (CalibrationError("it is of another graph", "hint"), "does not fit (it is of another"),
        (RecursionError("too deep"), "cannot be read (too deep)"),
    ],
)
def test_content_that_does_not_fit_makes_the_stage_run_again(files, error, text):
    def read(_):
        raise error

    told = []
    assert kept(files[0], read, told.append) is None
    assert text in told[0] and told[0].endswith("the stage runs again")
