"""Auditor: the comparison of a frame with the reference, and the auditing process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np
import pytest

from edge.engine.engine import Engine
from edge.engine.passport import Passport
from edge.outputs.audit.auditor import Auditor, Job
from edge.outputs.audit.findings import MAX_LEVELS
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.surface import FORMATS, Colour, Surface
from tests.preprocess.pictures import noise

WAIT = 120.0  # seconds: the process has the lowest priority, on a busy machine


@pytest.fixture(scope="module")
def auditor(fp32_engine: Path) -> Auditor:
    return Auditor(fp32_engine, "model.onnx")


@pytest.fixture(scope="module")
def fp32(fp32_engine: Path) -> Iterator[Engine]:
    with Engine.open(fp32_engine, "onnxruntime", 1) as engine:
        yield engine


def labelled(engine: Engine, surface: Surface, seen: np.ndarray | None = None) -> Job:
    """The job that a run would send: the frame, the network input, and the probabilities."""
    tensor = engine.preprocess(surface) if seen is None else seen
    probabilities = engine.predict(engine.infer(tensor[None])[0]).probabilities
    return Job(surface, probabilities, tensor)


@pytest.mark.parametrize("form", FORMATS)
def test_fast_preprocessing_differs_by_rounding_only_in_every_format(auditor, fp32, form):
    verdict = auditor(labelled(fp32, noise(form, 61, 45, padding=5)))
    assert verdict.agrees
    assert verdict.largest <= (1.001 if not FORMATS[form].is_rgb else 1e-4)
    assert verdict.mean <= 0.1
    assert verdict.probability < 2


def test_another_class_does_not_agree(auditor, fp32):
    job = labelled(fp32, noise("NV12", 64, 48))
    turned = np.roll(job.probabilities, 1)
    verdict = auditor(replace(job, probabilities=turned))
    assert not verdict.agrees
    expected = 100 * np.abs(turned - job.probabilities).max()
    assert verdict.probability == pytest.approx(expected, abs=2)


def test_all_independent_labels_are_compared(auditor, fp32, monkeypatch):
    several = replace(auditor._head, activation="sigmoid")
    monkeypatch.setattr(auditor, "_head", several)
    surface = noise("NV12", 64, 48)
    logits = fp32.infer(fp32.preprocess(surface)[None])[0]
    probabilities = several.probabilities(logits)
    job = replace(labelled(fp32, surface), probabilities=probabilities)
    assert auditor(job).agrees
    changed = probabilities.copy()
    changed[probabilities.argmin()] = 1 - probabilities.min()
    changed[probabilities.argmax()] = 1  # the most probable label is the same
    assert changed.argmax() == probabilities.argmax() and probabilities.max() > 0.5
    assert not auditor(replace(job, probabilities=changed)).agrees


@pytest.mark.parametrize("wrong", [Colour(full_range=True), Colour("bt2020"), Colour("bt601")])
def test_wrong_colours_differ_by_more_than_rounding(auditor, fp32, wrong):
    surface = noise("NV12", 64, 48)
    misread = Surface(replace(surface.layout, colour=wrong), surface.planes)
    assert auditor(labelled(fp32, surface, fp32.preprocess(misread))).largest > MAX_LEVELS


def test_differences_are_in_grey_levels_of_the_frame_for_any_normalisation(
    auditor, fp32, fp32_engine
):
    """The network input of a frame that is brighter by one grey level everywhere."""
    surface = noise("RGB", 32, 32)
    pixels = np.minimum(surface.planes[0].reshape(32, 32, 3), 254)
    prepare = Preprocessor(Passport.read(fp32_engine).preprocess)
    job = labelled(fp32, Surface.from_rgb(pixels), prepare(pixels + np.uint8(1)))
    verdict = auditor(job)
    assert verdict.largest == pytest.approx(1, abs=1e-3)
    assert verdict.mean == pytest.approx(1, abs=1e-3)


def test_the_luma_range_is_measured_unless_the_frame_is_rgb(auditor, fp32):
    surface = noise("UYVY", 64, 48)
    luma = auditor(labelled(fp32, surface)).luma
    samples = surface.planes[0][:, 1::2]
    assert luma.outside == ((samples < 16) | (samples > 235)).mean()
    assert 0 <= luma.darkest <= 2 and 253 <= luma.brightest <= 255
    assert auditor(labelled(fp32, noise("RGB", 64, 48))).luma is None


@pytest.fixture
def process(fp32_engine: Path) -> Iterator[tuple[Connection, subprocess.Popen[bytes]]]:
    """The connection to the process, and the process."""
    with start(fp32_engine, "model.onnx") as (link, child):
        yield link, child


class start:
    def __init__(self, folder: Path, graph: str):
        self.link, theirs = Pipe()
        code = "from edge.outputs.audit.auditor import main; main()"
        command = [sys.executable, "-c", code, str(theirs.fileno()), str(folder), graph]
        self.child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def __enter__(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        return self.link, self.child

    def __exit__(self, *_: object) -> None:
        self.link.close()
        self.child.kill()
        self.child.wait()


def test_the_process_has_the_lowest_priority_and_ends_with_its_connection(process):
    link, child = process
    assert link.poll(WAIT)
    assert link.recv() is None  # ready
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
    assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # they are meant for the run, which ends the process
        child.send_signal(number)
    link.close()
    assert child.wait(WAIT) == 0


def test_an_error_while_loading_is_sent_as_text(tmp_path):
    with start(tmp_path, "model.onnx") as (link, child):
        assert link.poll(WAIT)
        assert "is not an engine: it has no passport.json" in link.recv()
        assert child.wait(WAIT) == 0
