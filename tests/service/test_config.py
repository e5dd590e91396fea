"""The configuration file: what it may say, what is wrong with it and where, what a reload does."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edge.errors import ConfigError, EdgeError, OptionError
from edge.run.config import Config
from edge.service import config, keys
from edge.sources.camera import Camera

CABINET = """\
engine = "/engines/cats"
backend = "onnxruntime"
threads = 2
web = ":8080"
on = ["label=dog", "label=cat for 2s"]
snapshots = "shots"

[[camera]]
source = "rtsp://user:${PASSWORD}@10.0.0.5/1"
name = "door"
every = 2
max_fps = 5
stall = 2.5
transport = "udp"

[[camera]]
source = "test://ball"
"""


@pytest.fixture
def write(tmp_path):
    """Write a configuration: its path."""

    def to_file(text):
        path = tmp_path / "cameras.toml"
        path.write_text(textwrap.dedent(text))
        return path

    return to_file


def test_a_file_says_what_the_command_line_can(write):
    assert config.load(write(CABINET)) == Config(
        engine=Path("/engines/cats"),
        backend="onnxruntime",
        threads=2,
        web=":8080",
        on=("label=dog", "label=cat for 2s"),
        snapshots=Path("shots"),
        cameras=(
            Camera(
                "rtsp://user:${PASSWORD}@10.0.0.5/1",
                name="door",
                every=2,
                max_fps=5.0,
                stall=2.5,
                transport="udp",
            ),
            Camera("test://ball", name="test://ball"),
        ),
    )


def test_what_a_file_leaves_out_is_as_without_it(write):
    assert config.load(write("")) == Config()
    (camera,) = config.load(write('[[camera]]\nsource = "test://ball"\n')).cameras
    assert camera == Camera("test://ball", name="test://ball")


def test_every_field_of_a_run_and_of_a_camera_has_a_key():
    assert {*keys.RUN} == {field.name for field in fields(Config)} - {"cameras"}
    with_unique_names = {field.name for field in fields(Camera)} - {"uri"}
    assert {*keys.CAMERA} == with_unique_names | {"source"}


@pytest.mark.parametrize("table", [keys.RUN, keys.CAMERA], ids=["run", "camera"])
def test_what_an_error_tells_to_write_is_right(write, table):
    lines = [f"{name} = {key.example}" for name, key in table.items()]
    header = ["[[camera]]"] if table is keys.CAMERA else []
    config.load(write("\n".join([*header, *lines])))


def test_the_documentation_names_every_key_and_its_example_is_valid(write):
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    tables = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert {*re.findall(r"`(\w+)`", tables)} == {*keys.RUN, *keys.CAMERA}
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    assert [camera.name for camera in config.load(write(example)).cameras] == ["door", "belt"]


def test_a_name_that_is_not_given_is_the_source_without_its_password(write):
    (camera,) = config.load(write('[[camera]]\nsource = "rtsp://me:secret@host/1"\n')).cameras
    assert camera.name == "rtsp://***@host/1"
    assert camera.uri == "rtsp://me:secret@host/1"


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ('a = "x"', 1, "unknown key 'a'", "use one of: engine, backend"),
        ('\nengin = "x"', 2, "unknown key 'engin'", "did you mean engine?"),
        ('[[cameras]]\nsource = "test://ball"', 1, "unknown key 'cameras'", "did you mean camera?"),
        ('[camera]\nsource = "test://ball"', 1, "not a list of tables", r"write \[\[camera\]\]"),
        ("every = 2", 1, "unknown key 'every'", r"move every into a \[\[camera\]\]"),
        (
            '[[camera]]\nsource = "test://ball"\nweb = ":1"',
            3,
            "unknown key 'web'",
            "above the first",
        ),
        ("[[camera]]\nsouce = 1", 2, "unknown key 'souce'", "did you mean source?"),
        ('threads = "two"', 1, 'threads cannot be "two"', "a whole number from 1"),
        ("threads = 0", 1, "threads cannot be 0", "threads = 2"),
        ("threads = 1025", 1, "threads cannot be 1025", "from 1 to 1024"),
        (f"frames = 0x{'f' * 5000}", 1, "frames cannot be such a number", "frames = 1000"),
        (f"on = [\n0x{'f' * 5000}]", 2, "on cannot be such a number", "a list of rules"),
        (f"wait = {'9' * 999}", 1, f"wait cannot be {'9' * 200}...", "true or false"),
        ("wait = 1", 1, "wait cannot be 1", "true or false"),
        ('engine = ""', 1, 'engine cannot be ""', "the folder of an engine"),
        (
            'backend = "gpu"',
            1,
            'backend cannot be "gpu"',
            "auto, onnxruntime, onnxruntime-cuda, tensorrt",
        ),
        ('on = [\n  "label=dog",\n  3,\n]', 3, "on cannot be", "a list of rules"),
        ('on = [\n  "label=dog",\n  "label~dog",\n]', 3, "at '~dog', column 6", "expected there"),
        ('\nsmooth = "soon"', 2, "smooth: --smooth soon is not", "0.5s"),
        ('audit = "500"', 1, "'500' is not of the form 1/N", "1/500"),
        ('web = "8080x"', 1, "is not a listen address", ":8080"),
        ('metrics = ":port"', 1, "is not a listen address", ":8080"),
        ('mqtt = "http://broker"', 1, "is not an MQTT broker address", "mqtt://"),
        ('\nrecord = "out.avi"', 2, "out.avi is neither .mkv nor .mp4", r"write out\.mkv"),
        ('\nrecord = "rtsp://:8554"', 2, "is not an RTSP address", "rtsp://:8554/NAME"),
        ("[[camera]]\nevery = 0", 2, "every cannot be 0", "a whole number from 1"),
        ("[[camera]]\nevery = true", 2, "every cannot be true", "a whole number"),
        ("[[camera]]\nmax_fps = 0.0", 2, "max_fps cannot be 0", "above 0"),
        ("[[camera]]\nstall = 0.09", 2, "stall cannot be 0.09", "seconds from 0.1"),
        ("[[camera]]\nstall = nan", 2, "stall cannot be NaN", "from 0.1"),
        ("[[camera]]\nstall = inf", 2, "stall cannot be Inf", "from 0.1"),
        ('[[camera]]\nname = "a\\nb"', 2, "name cannot be", "on one line"),
        ('[[camera]]\nname = ""', 2, "name cannot be", "on one line"),
        ('[[camera]]\ntransport = "sctp"', 2, 'transport cannot be "sctp"', "tcp, udp"),
        ('\n[[camera]]\nname = "x"', 2, "no source", "write: source ="),
        ('[[camera]]\nsource = " "', 2, "the source is empty", "use one of"),
        ('[[camera]]\nsource = "no.mp4"', 2, "there is no file no.mp4", "give a video"),
        (
            '[[camera]]\nsource = "test://bal"',
            2,
            "test://bal is not a test pattern",
            "did you mean test://ball?",
        ),
        (
            '[[camera]]\nevery = 2\nsource = "/dev/video0?format=mjpeg"',
            3,
            "has an unknown format 'mjpeg'",
            "use one of: raw, mjpg, h264",
        ),
        (
            'wait = true\non = ["label=dog"]',
            2,
            "on requires snapshots",
            'write: snapshots = "/var/lib/vit-edge/snapshots"',
        ),
        ('snapshots = "x"', 1, "snapshots requires on", "write: on = "),
        ("keep = 3", 1, "keep requires snapshots", "write: snapshots = "),
        ('\naudit = "1/9"', 2, "audit requires reference", "write: reference = "),
        ('reference = "x"', 1, "reference requires audit", "write: audit = "),
        (
            'snapshots = "x"\non = [\n  "label=dog",\n  "source=dor",\n]\n'
            '[[camera]]\nsource = "test://ball"\nname = "door"',
            4,
            "on: the run has no source 'dor', which the rule 'source=dor' names",
            "such as: 'door'",
        ),
        (
            'camera = [\n{source = "test://ball"},\n{source = "test://ball"},\n]',
            3,
            "a camera 'test://ball' above",
            "another name",
        ),
        (
            '[[camera]]\nsource = "test://ball"\nname = "x"\n'
            '[[camera]]\nsource = "test://snow"\nname = "x"',
            6,
            "a camera 'x' above",
            "another name",
        ),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_to_write(write, text, line, what, hint):
    path = write(text)
    with pytest.raises(ConfigError, match=hint) as caught:
        config.load(path)
    assert caught.value.problem.startswith(f"{path}:{line}: ")
    assert what in caught.value.problem


@pytest.mark.parametrize(
    "text",
    [
        '[[camera]]\nsource = ["rtsp://me:secret@host/1"]',
        '[[camera]]\nsource = {uri = "rtsp://me:secret@host/1"}',
        'mqtt = "http://me:secret@host"',
        'mqtt = "me:secret@host"',
        'mqtt = ["me:secret@host"]',
        'record = "rtmp://me:secret@host/x.flv"',
        '[[camera]]\nsource = "me:secret@host/1"',
    ],
)
def test_no_error_shows_a_password(write, text):
    with pytest.raises(ConfigError) as caught:
        config.load(write(text))
    assert "secret" not in str(caught.value)


def test_the_command_line_wins_over_the_file(write):
    given = {"engine": Path("b"), "threads": None, "on": [], "every": 3, "source": None}
    merged = config.merge(config.load(write(CABINET)), given)
    assert merged.engine == Path("b")
    assert merged.threads == 2
    assert merged.on == ("label=dog", "label=cat for 2s")
    assert [camera.every for camera in merged.cameras] == [3, 3]
    assert [camera.name for camera in merged.cameras] == ["door", "test://ball"]


def test_sources_of_the_command_line_stand_in_for_the_file_s(write):
    given = {"source": ["test://snow", "test://snow"], "on": ["label=owl"], "loop": True}
    merged = config.merge(config.load(write(CABINET)), given)
    names = ("test://snow", "test://snow#2")
    assert merged.cameras == tuple(Camera("test://snow", name, loop=True) for name in names)
    assert merged.on == ("label=owl",)


def test_a_run_without_a_file_is_the_command_line_s():
    merged = config.merge(Config(), {"engine": Path("a"), "source": ["test://ball"]})
    assert merged == Config(engine=Path("a"), cameras=(Camera("test://ball", "test://ball"),))


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"engine": Path("a")}, "camera"), ({"source": ["test://bar"]}, "engine")],
)
def test_a_run_without_an_engine_or_a_camera_is_refused(given, missing):
    with pytest.raises(ConfigError, match=f"no {missing} is given"):
        config.merge(Config(), given)


def test_what_a_file_leaves_out_may_be_typed(write):
    path, typed = write('engine = "e"\non = ["source=door"]\n'), Path("shots")
    given = {"snapshots": typed, "source": ["test://ball"]}
    with pytest.raises(OptionError, match=r"the run has no source 'door'.*'test://ball'"):
        config.merge(config.load(path, given), given)
    given["on"] = ["source=test://ball"]
    assert config.merge(config.load(path, given), given).snapshots == typed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"on": ["label=dog"]}, "--on requires --snapshots; write --on"),
        ({"snapshots": Path("x")}, "--snapshots requires --on"),
        ({"keep": 3}, "--keep requires --snapshots"),
        ({"audit": "1/500"}, "--audit requires --reference; write --audit 1/500"),
        ({"every": 0}, "--every cannot be 0; write a whole number from 1, as in: --every 2"),
        ({"frames": -1}, "--frames cannot be -1; write a whole number from 1"),
        ({"threads": 0}, "--threads cannot be 0; "),
        ({"threads": 10**11}, "--threads cannot be 100000000000; write .* from 1 to 1024"),
        ({"keep": 0}, "--keep cannot be 0; "),
        ({"max_fps": 0.0}, "--max-fps cannot be 0.0; write a number above 0"),
        ({"stall": float("nan")}, "--stall cannot be nan; write a number of seconds from 0.1"),
        ({"stall": 0.04}, "--stall cannot be 0.04; write a number of seconds from 0.1"),
        ({"on": ["source=nope"], "snapshots": Path("x")}, "the run has no source 'nope'"),
        ({"on": ["label~dog"], "snapshots": Path("x")}, "column 6"),
        ({"smooth": "soon"}, "--smooth soon is not understood; write 0.5s"),
        ({"audit": "5", "reference": Path("x")}, "--audit '5' is not of .*; write --audit"),
        ({"record": "out.avi"}, "--record out.avi is neither .mkv nor .mp4"),
        ({"mqtt": "broker"}, "broker is not an MQTT broker address"),
        ({"web": "8080x"}, "'8080x' is not a listen address"),
        ({"web": ""}, "'' is not a listen address"),
        ({"metrics": "port"}, "'port' is not a listen address"),
    ],
)
def test_what_is_typed_is_judged_before_anything_is_opened(asked, said):
    with pytest.raises(EdgeError, match=said):
        config.merge(Config(), {"engine": Path("a"), "source": ["test://ball"], **asked})


DOOR, YARD, GATE = (Camera(f"rtsp://host/{name}", name=name) for name in ("door", "yard", "gate"))


def test_a_reload_touches_only_the_cameras_that_changed():
    slower = replace(YARD, every=2)
    found = config.diff(Config(cameras=(DOOR, YARD)), Config(cameras=(GATE, slower, DOOR)))
    assert found.unchanged == (DOOR,)
    assert found.removed == (YARD,)
    assert found.added == (GATE, slower)
    assert found.restart == ()


def test_a_reload_says_what_only_a_restart_changes():
    old = Config(engine=Path("a"), web=":8080", cameras=(DOOR,))
    found = config.diff(old, replace(old, engine=Path("b"), web=None))
    assert found.restart == ("engine", "web")
    assert found.unchanged == (DOOR,)


def test_cameras_in_another_order_are_the_same():
    found = config.diff(Config(cameras=(DOOR, YARD)), Config(cameras=(YARD, DOOR)))
    assert (found.removed, found.added) == ((), ())


def test_a_kind_of_source_that_there_is_not_is_named_with_its_line(write):
    """A reload that mistypes it changes nothing: the camera that plays is not taken out."""
    path = write('engine = "e"\n\n[[camera]]\nsource = "rtps://10.0.0.5/x"\n')
    with pytest.raises(ConfigError, match=r":4: 'rtps://10\.0\.0\.5/x' is not a source"):
        config.load(path)
    path = write('engine = "e"\n\n[[camera]]\nsource = "${CAMERA}"\n')
    assert config.load(path).cameras[0].uri == "${CAMERA}"
