"""A reload changes only the cameras that differ; an invalid file changes nothing."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from edge.errors import SourceError
from edge.run.scheduler import Add, Control, Remove
from edge.service import config
from edge.service.reload import Reload
from edge.sources.feeds import Feed

BEFORE = """\
engine = "cats"

[[camera]]
source = "test://ball"
name = "door"

[[camera]]
source = "test://snow"
name = "yard"
"""


class Run:
    """A run that was started with `BEFORE`; records the messages of its reloads."""

    def __init__(self, path, given=MappingProxyType({})):
        self.path = path
        path.write_text(BEFORE)
        self.control = Control()
        self.infos, self.warnings = [], []
        self.reload = Reload(
            path,
            given,
            config.merge(config.load(path), given),
            self.control,
            self.feed,
            self.infos.append,
            self.warnings.append,
        )

    def feed(self, camera):
        if camera.uri == "rtsp://refused":
            raise SourceError("there is no such camera", "use another")
        if camera.uri == "rtsp://broken":
            raise RuntimeError("not foreseen at rtsp://joe:s3cret@cam/")
        return Feed(camera.name, open=lambda first, wait: None, stall=camera.stall)

    def change(self, old, new):
        """Edit the file and reload it; returns the names of removed and of added sources."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new, 1))
        self.control.requests.clear()
        self.reload()
        requests = list(self.control.requests)
        removed = [request.name for request in requests if isinstance(request, Remove)]
        return removed, [request.feed.name for request in requests if isinstance(request, Add)]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "cameras.toml")


def test_an_unchanged_file_changes_nothing(run):
    assert run.change("", "") == ([], [])
    assert run.infos == [f"{run.path}: 0 cameras removed, 0 added, 2 unchanged"]


def test_a_camera_is_added_and_removed(run):
    gate = '[[camera]]\nsource = "test://smpte"\nname = "gate"\n'
    assert run.change(BEFORE, BEFORE + gate) == ([], ["gate"])
    assert run.change(gate, "") == (["gate"], [])


def test_a_camera_whose_options_change_is_removed_and_added(run):
    assert run.change('name = "yard"', 'name = "yard"\nstall = 3') == (["yard"], ["yard"])
    (feed,) = [request.feed for request in run.control.requests if isinstance(request, Add)]
    assert feed.stall == 3.0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('name = "yard"', 'name = "door"', "cameras.toml:9: there is already a camera 'door'"),
        ('name = "yard"', "every = 0", "cameras.toml:9: every cannot be 0"),
        ('name = "yard"', "name = ", "cameras.toml:9: this is not valid TOML"),
        ('"test://ball"', '"rtsp://refused"', "there is no such camera"),
        ('"test://ball"', '"test://bal"', "cameras.toml:4: test://bal is not a test pattern"),
        ('"test://ball"', '"~no-such/a.mp4"', "cameras.toml:4: there is no file ~no-such/a.mp4"),
        ('"test://ball"', '"rtsp://broken"', "not foreseen at rtsp://***@cam/"),
        (
            "[[camera]]",
            f"x = {'[' * 5000}{']' * 5000}\n[[camera]]",
            "cameras.toml:3: this is nest",
        ),
        (BEFORE, 'engine = "cats"\n', "no camera is given"),
        ('"cats"', '"cats"\non = ["source=gate"]\nsnapshots = "x"', "cameras.toml:2: on: the run"),
    ],
)
def test_an_invalid_file_changes_nothing_and_the_reason_is_reported(run, old, new, why):
    before = run.reload.config
    assert run.change(old, new) == ([], [])
    assert run.reload.config is before
    (text,) = run.warnings
    assert why in text
    assert "the run is unchanged" in text
    assert run.infos == []


def test_a_missing_file_changes_nothing(run):
    run.path.unlink()
    run.reload()
    assert "cannot be read" in run.warnings[0]
    assert not run.control.requests


def test_a_change_that_needs_a_restart_is_reported_at_every_reload(run):
    assert run.change('"cats"', '"dogs"') == ([], [])
    run.reload()
    assert run.warnings == [f"{run.path}: engine can only be changed by a restart"] * 2


def test_each_reload_compares_with_the_one_before(run):
    run.change('name = "yard"', 'name = "lawn"')
    assert run.change('name = "lawn"', 'name = "yard"') == (["lawn"], ["yard"])


def test_the_command_line_has_precedence_after_a_reload(tmp_path):
    run = Run(tmp_path / "cameras.toml", {"every": 5})
    assert run.change('name = "yard"', 'name = "yard"\nevery = 2') == ([], [])
    assert all(camera.every == 5 for camera in run.reload.config.cameras)
