import pytest

from edge.builder.publish import assembled, recover


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "model.onnx").write_text("old")
    (folder / "passport.json").write_text("{}")
    return folder


def publish(folder):
    with assembled(folder) as scratch:
        (scratch / "model.onnx").write_text("new")


def test_the_new_engine_replaces_the_old_one(engine):
    publish(engine)
    assert (engine / "model.onnx").read_text() == "new"
    assert names(engine.parent) == ["a"]


def test_a_failed_build_changes_nothing(engine):
    with pytest.raises(KeyboardInterrupt), assembled(engine):
        raise KeyboardInterrupt
    assert (engine / "model.onnx").read_text() == "old"
    assert names(engine.parent) == ["a"]


@pytest.mark.parametrize("at", [1, 2])
def test_an_interruption_at_either_rename_leaves_an_engine(engine, monkeypatch, at):
    from pathlib import Path

    rename, count = Path.replace, 0

    def interrupted(self, target):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(engine)
    assert (engine / "model.onnx").read_text() == "old"
    assert names(engine.parent) == ["a"]


@pytest.mark.parametrize(
    ("whole", "left"), [(True, ["a"]), (False, [])], ids=["put back", "remains of a removed one"]
)
def test_leftovers_of_a_killed_build_are_deleted_and_its_old_engine_restored(engine, whole, left):
    engine.rename(engine.parent / ".a.old")
    (engine.parent / ".a.new").mkdir()
    if not whole:
        (engine.parent / ".a.old/passport.json").unlink()
    recover(engine)
    assert names(engine.parent) == left
    assert [path.read_text() for path in engine.glob("model.onnx")] == ["old"] * whole


def test_a_link_is_followed(engine, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(engine)
    publish(link)
    assert link.is_symlink()
    assert (engine / "model.onnx").read_text() == "new"
