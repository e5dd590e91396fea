"""`edge compile` judges each plan and tries the next: candidates first, then what is known to help.

The real command, over the emulated TensorRT on the stand-in driver: see `emulated_compiler`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge.builder.fixes import FIXES
from edge.builder.pipeline import build
from edge.builder.recipes import Recipe
from edge.engine.accuracy import Gate
from edge.engine.passport import Passport
from tests.conftest import ROOT, Recorder
from tests.cuda_driver.emulated_compiler import planned
from tests.cuda_driver.standin import environment

BF16, ATTENTION, RESIDUAL, LEVEL, TACTICS = (fix.name for fix in FIXES)


@pytest.fixture(scope="module")
def auto_engine(
    tmp_path_factory: pytest.TempPathFactory, engines: Path, checkpoint: Path, pictures: Path
) -> Path:
    """An engine with the candidates FP32, FP16 and INT8."""
    folder = tmp_path_factory.mktemp("auto")
    shutil.copytree(engines / ".cache", folder / ".cache")
    settings = {"precision": "auto", "min_agreement": 50.0, "max_batch": 4}
    build(Recipe(str(checkpoint), pictures, name="auto", engines=folder, **settings), Recorder())
    return folder / "auto"


@pytest.fixture
def copy(built_engine: Path, tmp_path: Path) -> Path:
    return prepared(built_engine, tmp_path / "engine")


def prepared(engine: Path, target: Path) -> Path:
    """A copy without a plan, whose gate is 99 %."""
    folder = shutil.copytree(engine, target)
    (folder / "model.plan").unlink(missing_ok=True)
    replace(Passport.read(folder).with_plan(None, {}), gate=Gate(99)).write(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an engine; beside them TensorRT's timings are kept."""
    paths = [path for path in folder.iterdir() if not path.name.startswith("timing-")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def edge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command where TensorRT is the emulated one."""

    def call(*words: object, **plan: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge", *map(str, words)],
            env={**environment(tensorrt=True), **(planned(**plan) if plan else {})},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


Edge = Callable[..., subprocess.CompletedProcess[str]]


def test_a_plan_that_is_right_is_published_with_its_accuracy(copy: Path, edge: Edge) -> None:
    done = edge("compile", copy)
    assert done.returncode == 0, done.stderr
    passport = Passport.read(copy)
    passport.check_files(copy)
    judged = passport.plan_accuracy
    assert judged is not None
    assert (judged.batches, judged.fix, judged.refused) == ((1, 2, 4), "", ())
    assert "judge int8 (tensorrt)" in done.stderr
    assert f"agrees with FP32 on {judged.accuracy.agreeing} of 8 witnesses" in done.stderr
    assert set(contents(copy)) == {"passport.json", *passport.files}
    inspected = edge("inspect", copy).stdout
    assert f"plan_accuracy      {judged}, in batches of 1, 2, 4, 23 runs\n" in inspected
    again = edge("check", copy)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["passed"], found["backend"], found["batches"]) == (True, "tensorrt", [1, 2, 4])


@pytest.mark.parametrize(
    ("cure", "fix", "tries"),
    [
        ("bf16", BF16, 1),
        pytest.param("residual", RESIDUAL, 3, marks=pytest.mark.slow),
        pytest.param("tactics", TACTICS, 5, marks=pytest.mark.slow),
    ],
)
def test_what_helps_is_found_and_named(
    cure: str, fix: str, tries: int, copy: Path, edge: Edge
) -> None:
    done = edge("compile", copy, fault="one_class", unless=cure)
    assert done.returncode == 0, done.stderr
    passport = Passport.read(copy)
    judged, plan = passport.plan_accuracy, passport.plan
    assert judged is not None and plan is not None
    assert judged.fix == fix
    assert len(judged.refused) == tries
    assert judged.refused[0].startswith("INT8: it agrees with FP32 on ")
    assert [why.partition(":")[0] for why in judged.refused[1:]] == [
        f"INT8 {one.name}" for one in FIXES[: tries - 1]
    ]
    start = f"tensorrt 10.3.0 on Stand-in GPU: {judged.refused[0]}; the plan {fix}: {judged}; it is"
    assert plan.why.startswith(start)
    assert plan.why.endswith(" the refused one")
    assert f"compiled {fix}" in edge("inspect", copy).stdout


@pytest.mark.parametrize("fault", [pytest.param("crash", marks=pytest.mark.slow), "unbuildable"])
def test_a_candidate_that_passes_is_taken_before_anything_is_changed(
    fault: str, auto_engine: Path, tmp_path: Path, edge: Edge
) -> None:
    folder = prepared(auto_engine, tmp_path / "engine")
    passport = Passport.read(folder)
    int8 = passport.candidates["int8"].graph
    done = edge("compile", folder, fault=fault, unless="fp16")
    assert done.returncode == 0, done.stderr
    found = Passport.read(folder)
    assert found.plan is not None and found.plan_accuracy is not None
    assert found.plan.graph != int8
    assert found.plan_accuracy.fix == ""
    assert "INT8" not in found.plan.why.partition(" was chosen")[0]


def test_if_nothing_passes_the_engine_stays_as_it_was(copy: Path, edge: Edge) -> None:
    before = contents(copy)
    done = edge("compile", copy, fault="exchanged", unless="")
    assert done.returncode == 1
    *_, error = done.stderr.strip().splitlines()
    assert error.startswith("error: no plan of tiny-int8 gives FP32's answers with tensorrt 10.3.0")
    assert all(f"INT8 {fix.name}: " in error for fix in FIXES)
    assert error.endswith("or --backend onnxruntime; see docs/trust.md")
    assert contents(copy) == before
    assert edge("check", copy, "--backend", "onnxruntime").returncode == 0


@pytest.mark.slow
def test_a_build_on_a_machine_with_a_gpu_publishes_no_plan_that_is_wrong(
    checkpoint: Path, pictures: Path, warm: Path, edge: Edge
) -> None:
    words = ["build", checkpoint, "--calibration", pictures, "--name", "a", "--engines", warm]
    done = edge(*words, fault="exchanged", unless="")
    assert done.returncode == 0, done.stderr
    assert "no plan: no plan of a gives FP32's answers" in " ".join(done.stderr.split())
    passport = Passport.read(warm / "a")
    assert passport.plan is None and "model.plan" not in passport.files
