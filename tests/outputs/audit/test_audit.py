"""Audit: deviations in the field are reported, and the run never waits for the audit."""

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

WAIT = 120.0  # seconds: a process must start, on a busy machine
# The real process, but with normal priority: on a busy machine it would wait for minutes.
NORMAL_PRIORITY = (
    "from edge.outputs.audit import auditor; auditor._lower_priority = lambda: None; auditor.main()"
)
# A process that becomes ready, and ends at its first frame.
BROKEN = (
    "from edge.outputs.audit import auditor as a; "
    "a.Auditor = lambda *_: lambda job: exit(); a.main()"
)
# A process that never answers.
SILENT = "import time; time.sleep(1000)"


@pytest.fixture(autouse=True)
def fast_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START", NORMAL_PRIORITY)
    monkeypatch.setattr(module, "_BACKOFF", (0.01, 0.02))


@pytest.fixture
def int8(built_engine: Path) -> Iterator[Engine]:
    with Engine.open(built_engine, "onnxruntime", 1) as engine:
        yield engine


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def auditing(
    built_engine: Path, fp32_engine: Path, messages: list[str]
) -> Iterator[Callable[[int], Audit]]:
    """auditing(every) -> an Audit of the INT8 engine, closed at the end of the test."""
    reference = Reference.find(Passport.read(built_engine), fp32_engine)
    opened: list[Audit] = []

    def begin(every: int = 1) -> Audit:
        opened.append(Audit(reference, 5, every, messages.append))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()
    until(
        lambda: "audit" not in [thread.name for thread in threading.enumerate()],
        "the audit's thread is still alive",
    )


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.01)


@dataclass(frozen=True)
class Labelled:
    """What the loop passes to an audit."""

    frame: Frame
    prediction: Prediction
    seen: np.ndarray


def label(
    engine: Engine,
    surface: Surface,
    source: str = "yard",
    misread: Callable[[Surface], Surface] = lambda surface: surface,
) -> Labelled:
    """A frame through the engine; `misread` simulates wrong preprocessing."""
    frame = Frame(source, 0, None, time.monotonic(), "system", surface)
    place = engine.slot()
    place.put(replace(frame, surface=misread(surface)))
    engine.start([place])
    logits = engine.finish()
    return Labelled(frame, engine.predict(logits[0]), engine.network_input(0))


def observe(audit: Audit, given: Labelled) -> None:
    audit.observe(given.frame, given.prediction, lambda: given.seen)


def observe_and_wait(audit: Audit, given: Labelled) -> None:
    """Pass a frame to the audit, and wait for its verdict."""
    observe(audit, given)
    until(lambda: audit._taken is None, "there is no verdict")


def results(audit: Audit, source: str = "yard") -> module.SourceAudit:
    return next(each for each in audit.sources if each.source == source)


@pytest.mark.parametrize(("text", "every"), [("1/500", 500), ("1/1", 1)])
def test_parse_every_accepts_one_in_n(text, every):
    assert parse_every(text) == every


@pytest.mark.parametrize("text", ["500", "2/500", "1/0", "1/", "1/-5", "1/x", "", "1 / 5"])
def test_parse_every_refuses_anything_else(text):
    with pytest.raises(ValueError, match="such as 1/500"):
        parse_every(text)


def test_a_good_engine_agrees_and_has_the_input_of_the_reference(int8, auditing, messages):
    audit = auditing()
    for seed, form in enumerate(("NV12", "I420", "YUY2", "BGRx")):
        observe_and_wait(audit, label(int8, noise(form, 61, 45, Colour(full_range=True), 3, seed)))
    numbers = audit.numbers()
    assert (numbers["frames"], numbers["agreement"], numbers["lost"]) == (4, 1.0, 0)
    assert numbers["input_levels"]["largest"] <= 1.01
    assert numbers["input_levels"]["mean"] <= 0.1
    assert 0 < numbers["probability_points"] < 10
    assert messages == []


def test_wrong_colours_are_reported_once_and_so_is_their_end(int8, auditing, messages):
    """The frame declares full range, and preprocessing treats it as limited range."""
    audit = auditing()
    frame = noise("NV12", 64, 48, Colour(full_range=True))
    limited = replace(frame.layout, colour=Colour(full_range=False))
    for _ in range(3):
        observe_and_wait(audit, label(int8, frame, misread=lambda s: Surface(limited, s.planes)))
    assert len(messages) == 1
    assert "yard: the engine's input differs from the reference by up to" in messages[0]
    numbers = audit.numbers()["sources"]["yard"]
    assert numbers["input_levels"]["largest"] > 10
    assert len(numbers["deviations"]) == 1
    observe_and_wait(audit, label(int8, frame))
    assert messages[1:] == ["yard: the engine's input matches the reference again"]


def test_a_camera_that_declares_the_wrong_range_is_reported(int8, auditing, messages):
    """Engine and reference both trust the declaration; only the luma levels reveal it."""
    audit = auditing()
    bars = np.repeat(np.linspace(16, 235, 64).astype(np.uint8)[None], 48, axis=0)
    grey = np.full((24, 64), 128, np.uint8)
    layout = noise("NV12", 64, 48, Colour(full_range=True)).layout
    for _ in range(10):
        observe_and_wait(audit, label(int8, Surface(layout, (bars, grey))))
    (line,) = messages
    assert "the stream declares luma 0 to 255" in line
    assert results(audit).deviations.keys() == {"range"}
    assert results(audit).agreed == 10


def test_frames_of_a_real_loop_are_audited(int8, auditing, messages, numbered, once):
    """The frames are audited as they were when the engine inferred them."""
    audit = auditing(7)

    def observe(*shown: Any) -> None:
        audit.observe(*shown)
        until(lambda: audit._taken is None, "there is no verdict")

    summary = loop.run(int8, [once(Source(str(numbered)))], [], observe=observe)
    (source,) = audit.sources
    assert (summary.frames, source.frames, source.lost) == (45, 7, 0)
    assert source.source == numbered.as_uri()
    assert source.largest.percentile(100) <= 1.01
    assert messages == []


def test_a_real_stream_that_declares_the_wrong_range_is_reported(int8, auditing, messages, once):
    audit = auditing(1)
    stream = (
        "gst:videotestsrc pattern=gradient num-buffers=12 ! video/x-raw,format=I420,width=64,"
        "height=64,colorimetry=bt709 ! capssetter caps=video/x-raw,colorimetry=1:3:5:1"
    )

    def observe(*shown: Any) -> None:
        audit.observe(*shown)
        until(lambda: audit._taken is None, "there is no verdict")

    loop.run(int8, [once(Source(stream))], [], observe=observe)
    (line,) = messages
    assert "the stream declares luma 0 to 255, but 10 audited frames only have 16 to" in line


def damage(folder: Path, target: Path) -> Path:
    """The engine with weight scales 40 times too large, and a passport with matching checksums."""
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


def test_a_damaged_engine_is_reported(built_engine, auditing, messages, tmp_path):
    audit = auditing()
    with Engine.open(damage(built_engine, tmp_path / "bad"), "onnxruntime", 1) as bad:
        for seed in range(40):
            observe_and_wait(
                audit, label(bad, noise("NV12", 64, 48, Colour(full_range=True), seed=seed))
            )
    assert results(audit).agreed < 30
    assert results(audit).deviations.keys() == {"labels"}
    (line,) = messages
    assert "agrees with the FP32 graph on" in line
    assert audit.numbers()["input_levels"]["largest"] <= 1.01


def test_one_frame_in_n_of_each_source_is_audited(int8, auditing):
    audit = auditing(5)
    given = {name: label(int8, noise("NV12", 64, 48), name) for name in ("a", "b")}
    for _ in range(11):
        observe_and_wait(audit, given["a"])
    for _ in range(6):
        observe_and_wait(audit, given["b"])
    assert {each.source: each.frames for each in audit.sources} == {"a": 3, "b": 2}
    assert audit.numbers()["frames"] == 5


def test_sources_that_are_due_at_the_same_time_take_turns(int8, auditing):
    """Only one frame at a time is audited, but every source is audited eventually."""
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


def test_the_audit_does_not_hold_the_camera_s_buffer(int8, auditing):
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
    until(lambda: results(audit).frames, "there is no verdict")
    assert results(audit).largest.percentile(100) <= 1.01


class FromTheGpu:
    """Downloads a surface from GPU memory; fails for textures."""

    def __init__(self, picture):
        self.picture = picture

    def download(self, surface):
        if surface.textures:
            raise SourceError("block-linear memory cannot be copied", "use rows")
        return self.picture


def test_frames_in_gpu_memory_are_downloaded_or_their_failure_is_reported_once(
    int8, auditing, messages
):
    audit = auditing(1)
    given = label(int8, noise("NV12", 64, 48))
    here = given.frame.surface
    for textures in (True, False):
        there = DeviceSurface(here.layout, (0, 0), (64, 64), textures)
        frame = replace(given.frame, surface=there, path="nvmm-pitch", reader=FromTheGpu(here))
        for _ in range(2):
            observe(audit, replace(given, frame=frame))
    until(lambda: results(audit).frames, "there is no verdict")
    refused = [line for line in messages if "not audited" in line]
    assert refused == ["yard is not audited: block-linear memory cannot be copied; use rows"]


def test_a_killed_process_is_restarted(int8, auditing, messages):
    audit = auditing()
    given = label(int8, noise("NV12", 64, 48, Colour(full_range=True)))
    observe_and_wait(audit, given)
    first = audit._process._process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: audit.restarts, "the end of the process was not noticed")
    observe_and_wait(audit, given)
    assert audit._process._process.pid != first
    assert (audit.restarts, results(audit).frames, results(audit).lost) == (1, 2, 0)
    assert messages == [
        "the auditing process ended; it is restarted",
        "the audit continues",
    ]


def test_a_process_that_ends_at_each_frame_is_reported_once(int8, auditing, messages, monkeypatch):
    monkeypatch.setattr(module, "_START", BROKEN)
    audit = auditing()
    given = label(int8, noise("NV12", 64, 48))
    for _ in range(3):
        observe_and_wait(audit, given)
    until(lambda: audit.restarts == 3, "it was not restarted")
    assert results(audit).lost == 3
    assert messages == ["the auditing process ended; it is restarted"]


def test_the_reason_why_the_process_cannot_start_is_reported(
    auditing, messages, fp32_engine, built_engine, tmp_path
):
    audit = Audit(Reference(tmp_path / "gone", "model.onnx"), 5, 1, messages.append)
    until(lambda: audit.restarts >= 2, "it was not restarted twice")
    audit.close()
    (line,) = messages
    assert line.startswith("the auditing process ended: there is no engine at ")


@pytest.mark.parametrize(
    "code", [SILENT, NORMAL_PRIORITY], ids=["before it is ready", "while it works"]
)
def test_a_process_that_hangs_blocks_nothing(code, int8, auditing, monkeypatch):
    """Neither the loop, even with a frame larger than a pipe's buffer, nor the end of the run."""
    monkeypatch.setattr(module, "_START", code)
    audit = auditing()
    if code == NORMAL_PRIORITY:
        observe_and_wait(audit, label(int8, noise("NV12", 64, 48)))
        os.kill(audit._process._process.pid, signal.SIGSTOP)
    large = label(int8, noise("NV12", 1920, 1080))
    began = time.monotonic()
    for _ in range(1000):
        observe(audit, large)
    assert time.monotonic() - began < 10, "a thousand frames waited"
    audit.close()
    assert time.monotonic() - began < 20, "the run does not end"
    assert (results(audit).lost, results(audit).skipped) == (1, 1)


def test_a_process_that_cannot_be_killed_does_not_block_the_end_of_the_run(
    int8, auditing, monkeypatch
):
    """A process that is blocked on a disk that hangs stays, even if it is killed."""
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
    assert (audit._thread.daemon, results(audit).lost) == (True, 1)
    process.kill()


def test_a_process_that_does_not_answer_is_replaced(auditing, messages, monkeypatch):
    monkeypatch.setattr(module, "_START", SILENT)
    monkeypatch.setattr(module, "_ANSWER_TIMEOUT", 0.2)
    audit = auditing()
    until(lambda: audit.restarts >= 2, "it was not replaced")
    assert messages[0].startswith("the auditing process ended: it has not answered for")


def test_the_process_ends_with_a_run_that_is_killed(fp32_engine):
    """The run cannot tell it any more, but the system closes the connection."""
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

    until(gone, "the process outlived its run")
