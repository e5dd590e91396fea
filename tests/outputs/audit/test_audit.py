"""Live parity: what is wrong in the field shows, and the run does not wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.engine.engine import Engine
from edge.engine.passport import File, Passport
from edge.errors import SourceError
from edge.outputs.audit import audit as module
from edge.outputs.audit.audit import Audit, parse_every
from edge.outputs.audit.reference import Reference
from edge.preprocess.surface import Colour, DeviceSurface, Surface
from edge.run import loop
from edge.run.interfaces import Prediction
from edge.sources.frame import Frame
from edge.sources.source import Source
from tests.preprocess.pictures import noise

WAIT = 120.0  # seconds: a process starts, on a machine that is busy with other tests
# The process as it is, but for its place behind all others: here it would wait for minutes.
HURRIED = "from edge.outputs.audit import auditor; auditor._give_way = lambda: None; auditor.main()"
# A process that is ready, and ends at its first frame.
BROKEN = (
    "from edge.outputs.audit import auditor as a; "
    "a.Auditor = lambda *_: lambda job: exit(); a.main()"
)
# And one that never answers.
SILENT = "import time; time.sleep(1000)"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START", HURRIED)
    monkeypatch.setattr(module, "_PAUSE", (0.01, 0.02))


@pytest.fixture
def int8(built_engine: Path) -> Iterator[Engine]:
    with Engine.open(built_engine, "onnxruntime", 1) as engine:
        yield engine


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def auditing(
    built_engine: Path, fp32_engine: Path, said: list[str]
) -> Iterator[Callable[[int], Audit]]:
    """auditing(every) -> an Audit of the INT8 engine, closed at the end of the test."""
    reference = Reference.find(Passport.read(built_engine), fp32_engine)
    opened: list[Audit] = []

    def begin(every: int = 1) -> Audit:
        opened.append(Audit(reference, 5, every, said.append))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()
    until(lambda: "audit" not in [thread.name for thread in threading.enumerate()], "it goes on")


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.01)


@dataclass(frozen=True)
class Labelled:
    """What the loop shows an audit."""

    frame: Frame
    prediction: Prediction
    seen: np.ndarray


def label(
    engine: Engine,
    surface: Surface,
    source: str = "yard",
    misread: Callable[[Surface], Surface] = lambda surface: surface,
) -> Labelled:
    """A frame through the engine; `misread` plays a fast way that is wrong."""
    frame = Frame(source, 0, None, time.monotonic(), "system", surface)
    place = engine.slot()
    place.put(replace(frame, surface=misread(surface)))
    engine.start([place])
    logits = engine.finish()
    return Labelled(frame, engine.predict(logits[0]), engine.network_input(0))


def observe(audit: Audit, given: Labelled) -> None:
    audit.observe(given.frame, given.prediction, lambda: given.seen)


def look_and_wait(audit: Audit, given: Labelled) -> None:
    """Show a frame, and wait for what came of it."""
    observe(audit, given)
    until(lambda: audit._taken is None, "there is no verdict")


def parity(audit: Audit, source: str = "yard") -> module.Parity:
    return next(each for each in audit.sources if each.source == source)


@pytest.mark.parametrize(("text", "every"), [("1/500", 500), ("1/1", 1)])
def test_how_many_are_audited_is_said_as_a_share(text, every):
    assert parse_every(text) == every


@pytest.mark.parametrize("text", ["500", "2/500", "1/0", "1/", "1/-5", "1/x", "", "1 / 5"])
def test_what_is_no_such_share(text):
    with pytest.raises(ValueError, match="such as 1/500"):
        parse_every(text)


def test_a_good_engine_agrees_and_sees_what_the_reference_sees(int8, auditing, said):
    audit = auditing()
    for seed, form in enumerate(("NV12", "I420", "YUY2", "BGRx")):
        look_and_wait(audit, label(int8, noise(form, 61, 45, Colour(full_range=True), 3, seed)))
    numbers = audit.numbers()
    assert (numbers["frames"], numbers["agreement"], numbers["lost"]) == (4, 1.0, 0)
    assert numbers["input_levels"]["largest"] <= 1.01
    assert numbers["input_levels"]["mean"] <= 0.1
    assert 0 < numbers["probability_points"] < 10
    assert said == []


def test_colours_that_the_engine_reads_wrong_are_said_once_and_so_is_their_end(
    int8, auditing, said
):
    """The frame says full range, and the way to the network takes it for limited."""
    audit = auditing()
    frame = noise("NV12", 64, 48, Colour(full_range=True))
    limited = replace(frame.layout, colour=Colour(full_range=False))
    for _ in range(3):
        look_and_wait(audit, label(int8, frame, misread=lambda s: Surface(limited, s.planes)))
    assert len(said) == 1
    assert "yard: what the engine saw differs from the reference by up to" in said[0]
    numbers = audit.numbers()["sources"]["yard"]
    assert numbers["input_levels"]["largest"] > 10
    assert len(numbers["deviations"]) == 1
    look_and_wait(audit, label(int8, frame))
    assert said[1:] == ["yard: the engine sees again what the reference sees"]


def test_a_camera_that_says_the_wrong_range_shows(int8, auditing, said):
    """Engine and reference both believe it: what its luma reaches tells."""
    audit = auditing()
    bars = np.repeat(np.linspace(16, 235, 64).astype(np.uint8)[None], 48, axis=0)
    grey = np.full((24, 64), 128, np.uint8)
    layout = noise("NV12", 64, 48, Colour(full_range=True)).layout
    for _ in range(10):
        look_and_wait(audit, label(int8, Surface(layout, (bars, grey))))
    (line,) = said
    assert "it says that its luma is 0 to 255" in line
    assert parity(audit).deviations.keys() == {"range"}
    assert parity(audit).agreed == 10


def test_a_real_stream_in_a_real_loop(int8, auditing, said, numbered, once):
    """The film's frames are audited as they were when the engine saw them."""
    audit = auditing(7)

    def observe(*shown: Any) -> None:
        audit.observe(*shown)
        until(lambda: audit._taken is None, "there is no verdict")

    summary = loop.run(int8, [once(Source(str(numbered)))], [], observe=observe)
    (source,) = audit.sources
    assert (summary.frames, source.frames, source.lost) == (45, 7, 0)
    assert source.source == numbered.as_uri()
    assert source.largest.percentile(100) <= 1.01
    assert said == []


def test_a_real_stream_that_declares_the_wrong_range_shows(int8, auditing, said, once):
    audit = auditing(1)
    stream = (
        "gst:videotestsrc pattern=gradient num-buffers=12 ! video/x-raw,format=I420,width=64,"
        "height=64,colorimetry=bt709 ! capssetter caps=video/x-raw,colorimetry=1:3:5:1"
    )

    def observe(*shown: Any) -> None:
        audit.observe(*shown)
        until(lambda: audit._taken is None, "there is no verdict")

    loop.run(int8, [once(Source(stream))], [], observe=observe)
    (line,) = said
    assert "it says that its luma is 0 to 255, and in 10 audited frames it ends at 16 and" in line


def damage(folder: Path, target: Path) -> Path:
    """The engine with one weight's scales 40 times too large, and a passport that knows nothing."""
    model = onnx.load(folder / "model.onnx")
    scaled = {node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    weights = [
        tensor
        for tensor in model.graph.initializer
        if tensor.name in scaled and numpy_helper.to_array(tensor).ndim == 1
    ]
    for tensor in weights[-2:]:
        wrong = numpy_helper.to_array(tensor) * np.array(-40, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.abs(wrong), tensor.name))
    target.mkdir()
    onnx.save(model, target / "model.onnx")
    files = {"model.onnx": File.of(target / "model.onnx")}
    replace(Passport.read(folder), files=files).write(target)
    return target


def test_a_damaged_engine_shows(built_engine, auditing, said, tmp_path):
    audit = auditing()
    with Engine.open(damage(built_engine, tmp_path / "bad"), "onnxruntime", 1) as bad:
        for seed in range(40):
            look_and_wait(
                audit, label(bad, noise("NV12", 64, 48, Colour(full_range=True), seed=seed))
            )
    assert parity(audit).agreed < 30
    assert parity(audit).deviations.keys() == {"labels"}
    (line,) = said
    assert "says the same as the FP32 graph of" in line
    assert audit.numbers()["input_levels"]["largest"] <= 1.01


def test_one_frame_of_so_many_of_each_source(int8, auditing):
    audit = auditing(5)
    given = {name: label(int8, noise("NV12", 64, 48), name) for name in ("a", "b")}
    for _ in range(11):
        look_and_wait(audit, given["a"])
    for _ in range(6):
        look_and_wait(audit, given["b"])
    assert {each.source: each.frames for each in audit.sources} == {"a": 3, "b": 2}
    assert audit.numbers()["frames"] == 5


def test_cameras_in_step_have_their_turns(int8, auditing):
    """All are due at once, and one frame at a time is audited: none is left out for ever."""
    audit = auditing(50)
    given = [label(int8, noise("NV12", 64, 48), name) for name in "abc"]
    until(lambda: audit._process is not None, "there is no process")

    def step() -> bool:
        for each in given:
            observe(audit, each)
        return all(each.frames for each in audit.sources)

    until(step, "a source was never audited")
    assert {each.source for each in audit.sources} == {"a", "b", "c"}
    assert sum(each.skipped for each in audit.sources) >= 2


def test_nothing_of_the_camera_s_buffer_is_kept(int8, auditing):
    audit = auditing()
    given = label(int8, noise("NV12", 64, 48, Colour(full_range=True)))
    memory = [np.array(plane) for plane in given.frame.surface.planes]
    frame = replace(given.frame, surface=Surface(given.frame.surface.layout, tuple(memory)))
    held = weakref.ref(frame)
    observe(audit, replace(given, frame=frame))
    for plane in memory:
        plane[:] = 0  # the camera writes its next picture there
    del frame
    assert held() is None
    until(lambda: parity(audit).frames, "there is no verdict")
    assert parity(audit).largest.percentile(100) <= 1.01


class FromTheGpu:
    """Brings a picture from the GPU's memory, or cannot."""

    def __init__(self, picture):
        self.picture = picture

    def download(self, surface):
        if surface.textures:
            raise SourceError("a picture in block-linear memory cannot be kept", "use rows")
        return self.picture


def test_frames_in_the_gpu_s_memory_are_brought_from_there_or_refused_once(int8, auditing, said):
    audit = auditing(1)
    given = label(int8, noise("NV12", 64, 48))
    here = given.frame.surface
    for textures in (True, False):
        there = DeviceSurface(here.layout, (0, 0), (64, 64), textures)
        frame = replace(given.frame, surface=there, path="nvmm-pitch", reader=FromTheGpu(here))
        for _ in range(2):
            observe(audit, replace(given, frame=frame))
    until(lambda: parity(audit).frames, "there is no verdict")
    refused = [line for line in said if "not audited" in line]
    assert refused == [
        "yard is not audited: a picture in block-linear memory cannot be kept; use rows"
    ]


def test_a_process_that_is_killed_is_started_again(int8, auditing, said):
    audit = auditing()
    given = label(int8, noise("NV12", 64, 48, Colour(full_range=True)))
    look_and_wait(audit, given)
    first = audit._process._process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: audit.restarts, "its end went unnoticed")
    look_and_wait(audit, given)
    assert audit._process._process.pid != first
    assert (audit.restarts, parity(audit).frames, parity(audit).lost) == (1, 2, 0)
    assert said == [
        "the auditing process ended; it is started again",
        "the audit goes on",
    ]


def test_one_that_ends_at_each_frame_is_spoken_of_once(int8, auditing, said, monkeypatch):
    monkeypatch.setattr(module, "_START", BROKEN)
    audit = auditing()
    given = label(int8, noise("NV12", 64, 48))
    for _ in range(3):
        look_and_wait(audit, given)
    until(lambda: audit.restarts == 3, "it was not started again")
    assert parity(audit).lost == 3
    assert said == ["the auditing process ended; it is started again"]


def test_why_it_cannot_begin_is_said(auditing, said, fp32_engine, built_engine, tmp_path):
    audit = Audit(Reference(tmp_path / "gone", "model.onnx"), 5, 1, said.append)
    until(lambda: audit.restarts >= 2, "it does not try")
    audit.close()
    (line,) = said
    assert line.startswith("the auditing process ended: there is no engine at ")


@pytest.mark.parametrize("code", [SILENT, HURRIED], ids=["before it is ready", "at work"])
def test_a_process_that_hangs_holds_up_nothing(code, int8, auditing, monkeypatch):
    """Not the loop, not even with a picture that no pipe holds, and not the end of the run."""
    monkeypatch.setattr(module, "_START", code)
    audit = auditing()
    if code == HURRIED:
        look_and_wait(audit, label(int8, noise("NV12", 64, 48)))
        os.kill(audit._process._process.pid, signal.SIGSTOP)
    large = label(int8, noise("NV12", 1920, 1080))
    began = time.monotonic()
    for _ in range(1000):
        observe(audit, large)
    assert time.monotonic() - began < 10, "a thousand frames waited"
    audit.close()
    assert time.monotonic() - began < 20, "the run does not end"
    assert (parity(audit).lost, parity(audit).skipped) == (1, 1)


def test_a_process_that_cannot_be_ended_does_not_hold_the_end_of_the_run(
    int8, auditing, monkeypatch
):
    """On a disk that hangs it stays, even killed, for as long as the disk does."""
    monkeypatch.setattr(module, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(module._Process, "kill", lambda process: None)
    audit = auditing()
    observe(audit, label(int8, noise("NV12", 64, 48)))
    until(lambda: audit._process, "there is no process")
    began = time.monotonic()
    audit.close()
    assert time.monotonic() - began < 20, "the run does not end"
    process = audit._process._process
    assert process.returncode is None
    assert (audit._thread.daemon, parity(audit).lost) == (True, 1)
    process.kill()


def test_one_that_does_not_answer_is_replaced(auditing, said, monkeypatch):
    monkeypatch.setattr(module, "_START", SILENT)
    monkeypatch.setattr(module, "_ANSWER", 0.2)
    audit = auditing()
    until(lambda: audit.restarts >= 2, "it is waited for")
    assert said[0].startswith("the auditing process ended: it has not answered for")


def test_the_process_ends_with_a_run_that_is_killed(fp32_engine):
    """Nothing of the run is left to tell it: the system closes the connection."""
    code = f"""
import time
from pathlib import Path
from edge.outputs.audit.audit import Audit
from edge.outputs.audit.reference import Reference
audit = Audit(Reference(Path({str(fp32_engine)!r}), "model.onnx"), 5, 1, print)
while audit._process is None:
    time.sleep(0.01)
print(audit._process._process.pid, flush=True)
time.sleep(1000)
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(run.stdout.readline())
    run.kill()
    run.communicate()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone, "it lives on without its run")
