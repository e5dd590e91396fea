"""What is kept of earlier builds is believed only while it is what was written."""

import pytest

from edge.builder.cache import is_kept, keep


@pytest.fixture
def files(tmp_path):
    """A stage's graph, and its weights beside it."""
    made = [tmp_path / "a.onnx", tmp_path / "a.onnx.data"]
    for path in made:
        path.write_bytes(path.name.encode() * 100)
    keep(made)
    return made


def test_an_intact_stage_is_kept_without_a_warning(files):
    told = []
    assert is_kept(files[0], told.append)
    assert told == []


def test_an_absent_stage_gives_no_warning(tmp_path):
    told = []
    assert not is_kept(tmp_path / "b.onnx", told.append)
    assert told == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_a_changed_file_makes_the_stage_run_again(files, which, damage):
    data = files[which].read_bytes()
    changed = {"cut": data[:50], "changed": b"?" + data[1:], "longer": data + b"?"}
    files[which].write_bytes(changed[damage])
    told = []
    assert not is_kept(files[0], told.append)
    assert "is damaged: the stage runs again" in told[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_file_makes_the_stage_run_again(files, which):
    files[which].unlink()
    assert not is_kept(files[0], print)


def test_a_file_without_checksum_makes_the_stage_run_again(files):
    files[0].with_name("a.onnx.sha256").unlink()
    told = []
    assert not is_kept(files[0], told.append)
    assert "may be incomplete (no checksum): the stage runs again" in told[0]


@pytest.mark.parametrize("note", [b"", b"one word\n", b"\xff\xfe"])
def test_a_checksum_file_without_checksums_is_not_trusted(files, note):
    files[0].with_name("a.onnx.sha256").write_bytes(note)
    told = []
    assert not is_kept(files[0], told.append)
    assert told[0].endswith("the stage runs again")
