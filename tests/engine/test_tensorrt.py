"""The TensorRT backends on a GPU: `make test-gpu` (EDGE_REQUIRE_GPU=1 makes a missing one fail)."""

import shutil

import numpy as np
import pytest

from edge.builder.plan import compile_engine
from edge.engine.engine import Engine
from edge.errors import BackendError
from edge.gpu import nvidia
from tests.conftest import Recorder
from tests.hardware.support import engine, lacking, need_gpu

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def engine_folder(request):
    need_gpu()
    return engine(request)


@pytest.fixture(params=nvidia.BACKENDS)
def opened(request, tmp_path):
    need_gpu()
    if request.param not in nvidia.installed():
        # One of the two packages is enough, but with none of them nothing would be tested.
        lacking(request.param, required=not nvidia.installed())
    folder = shutil.copytree(request.getfixturevalue("engine_folder"), tmp_path / "tiny")
    compile_engine(folder, request.param, Recorder())
    with (
        Engine.open(folder, backend=request.param) as gpu,
        Engine.open(folder, backend="onnxruntime") as cpu,
    ):
        yield gpu, cpu


def test_it_gives_the_same_result_as_the_cpu(opened):
    gpu, cpu = opened
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    for count in (1, 4, 2):
        expected = cpu.infer(x[:count])
        assert gpu.infer(x[:count]) == pytest.approx(expected, abs=0.1 * np.abs(expected).max())


def test_a_batch_beyond_the_plan_is_refused(opened):
    with pytest.raises(BackendError, match="1 to 4"):
        opened[0].infer(np.zeros((5, 3, 32, 32), np.float32))
