"""The TensorRT backends on a GPU: `make test-gpu` (EDGE_REQUIRE_GPU=1 makes a missing one fail)."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge import nvidia
from edge.build.plan import compile_engine
from edge.errors import BackendError
from edge.run.engine import Engine
from tests.conftest import Recorder

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session")
def engine_folder(request):
    """A board without torch cannot build one: it takes the demo's, copied from a PC."""
    if importlib.util.find_spec("torch"):
        return request.getfixturevalue("built_engine")
    demo = Path(__file__).parents[1] / "engines/demo-int8"
    if not demo.is_dir():
        pytest.fail(f"copy the folder {demo} from the PC on which make demo ran")
    return demo


@pytest.fixture(params=nvidia.BACKENDS)
def opened(request, engine_folder, tmp_path):
    if nvidia.gpu() is None or request.param not in nvidia.installed():
        reason = f"needs an NVIDIA GPU and {request.param}"
        # One of the two packages is enough, but with none of them nothing would be tested.
        nothing = nvidia.gpu() is None or not nvidia.installed()
        if os.environ.get("EDGE_REQUIRE_GPU") == "1" and nothing:
            pytest.fail(reason)
        pytest.skip(reason)
    folder = shutil.copytree(engine_folder, tmp_path / "tiny")
    compile_engine(folder, request.param, Recorder())
    with (
        Engine.open(folder, backend=request.param) as gpu,
        Engine.open(folder, backend="onnxruntime") as cpu,
    ):
        yield gpu, cpu


def test_says_what_the_cpu_says(opened):
    gpu, cpu = opened
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    for count in (1, 4, 2):
        expected = cpu.infer(x[:count])
        assert gpu.infer(x[:count]) == pytest.approx(expected, abs=0.1 * np.abs(expected).max())


def test_a_batch_beyond_the_plan_is_refused(opened):
    with pytest.raises(BackendError, match="1 to 4"):
        opened[0].infer(np.zeros((5, 3, 32, 32), np.float32))
