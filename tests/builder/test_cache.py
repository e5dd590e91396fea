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


def test_what_was_kept_is_believed_without_a_word(files):
    told = []
    assert is_kept(files[0], told.append)
    assert told == []


def test_what_there_never_was_is_not_and_nothing_is_said_of_it(tmp_path):
    told = []
    assert not is_kept(tmp_path / "b.onnx", told.append)
    assert told == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_what_is_not_as_it_was_written_is_made_again(files, which, damage):
    data = files[which].read_bytes()
    changed = {"cut": data[:50], "changed": b"?" + data[1:], "longer": data + b"?"}
    files[which].write_bytes(changed[damage])
    told = []
    assert not is_kept(files[0], told.append)
    assert "is not what was written there: made again" in told[0]


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_there_any_more_is_made_again(files, which):
    files[which].unlink()
    assert not is_kept(files[0], print)


def test_a_file_whose_note_was_not_written_any_more_is_made_again(files):
    files[0].with_name("a.onnx.sha256").unlink()
    told = []
    assert not is_kept(files[0], told.append)
    assert "is not known to be whole: made again" in told[0]


@pytest.mark.parametrize("note", [b"", b"one word\n", b"\xff\xfe"])
def test_a_note_that_says_nothing_is_not_believed(files, note):
    files[0].with_name("a.onnx.sha256").write_bytes(note)
    told = []
    assert not is_kept(files[0], told.append)
    assert told[0].endswith("made again")
