"""Frames to logits on a GPU, by whatever can run the engine there: `make test-gpu`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edge.builder.plan import compile_engine
from edge.engine import onnxruntime_cuda
from edge.engine.engine import Engine
from edge.engine.judging import judge_apart
from edge.errors import EdgeError
from edge.gpu import nvidia
from tests.conftest import Recorder
from tests.hardware import frames
from tests.hardware.support import engine, lacking, need_gpu, runners

pytestmark = pytest.mark.gpu

ERROR = 0.1  # of the largest logit: INT8, and FP16 for the rest
RUNNERS = (*nvidia.BACKENDS, onnxruntime_cuda.NAME)


class Opened(NamedTuple):
    gpu: Engine
    cpu: Engine
    said: list[str]
    runner: str
    folder: Path


@pytest.fixture(scope="module")
def engine_folder(request: pytest.FixtureRequest) -> Path:
    need_gpu()
    return engine(request)


@pytest.fixture(scope="module", params=RUNNERS)
def opened(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Opened]:
    need_gpu()
    runner = request.param
    here = runners()
    if runner not in here:
        lacking(runner if here else f"one of {', '.join(RUNNERS)}", required=not here)
    source = request.getfixturevalue("engine_folder")
    folder = shutil.copytree(source, tmp_path_factory.mktemp(runner) / "tiny")
    said: list[str] = []
    with Engine.open(folder, "onnxruntime") as cpu:
        try:
            if runner in nvidia.BACKENDS:
                compile_engine(folder, runner, Recorder())
            gpu = Engine.open(folder, runner, info=said.append)
        except EdgeError as error:
            pytest.fail(f"{runner} refuses this GPU: {error}", pytrace=False)
        with gpu:
            yield Opened(gpu, cpu, said, runner, folder)


def test_every_format_and_batch_says_what_the_cpu_says(opened, record_property):
    worst = frames.says_what_the_cpu_says(opened.gpu, opened.cpu, 4, ERROR)
    record_property("error_of_largest_logit", worst)


def test_the_judge_finds_nothing_wrong(opened, record_property):
    found = judge_apart(opened.folder, opened.runner)
    record_property("judgement", found.to_dict())
    assert not found.refused, found.refused
    assert found.batches == (1, 2, 4)


def test_two_lanes_keep_order(opened):
    frames.keeps_order(opened.gpu, opened.cpu, ERROR)


def test_ten_thousand_frames_change_nothing(opened, record_property):
    figures = frames.stays_the_same(opened.gpu, 10_000)
    for name, value in figures.items():
        record_property(name, value)
    assert figures["differing"] == 0
    assert figures["distinct"] == 5
    assert figures["device_bytes_grown"] <= frames.SLACK
    assert figures["host_bytes_grown"] <= 64 << 20


def test_batches_are_cuda_graphs(opened):
    """TensorRT's are; onnxruntime allocates while it runs, and vit-edge says so."""
    frames.stays_the_same(opened.gpu, 1)
    # That a kernel is compiled, on the first run, is said as well.
    without = [text for text in opened.said if "without a CUDA graph" in text]
    if opened.runner == onnxruntime_cuda.NAME:
        assert without
    else:
        assert without == []
        assert frames.graphs(opened.gpu) >= opened.gpu.depth
