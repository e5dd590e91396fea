"""INT8 quantisers, edge's and its peers, each in a process of its own.

This shows the peak memory of each, and gives ModelOpt, which pins other versions of onnx and
onnxruntime, its own environment. `quantize.py` compares the results.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 1800  # seconds for one quantiser

PEERS = (
    ("onnxruntime, all ops", ("MinMax", "Entropy", "Percentile")),
    ("onnxruntime, Linears", ("MinMax", "Entropy", "Percentile")),
    ("ModelOpt", ("max", "entropy")),
)
# The requirements of nvidia-modelopt[onnx] without cupy and onnxruntime-gpu, which need a GPU.
MODELOPT = (
    "nvidia-modelopt==0.47.0",
    "torch==2.13.0",
    "onnx~=1.21.0",
    "onnxruntime~=1.24.2",
    "onnx-graphsurgeon>=0.6.1",
    "onnxconverter-common~=1.16.0",
    "onnxslim>=0.1.76",
    "polygraphy>=0.53.4",
    "onnxscript",
    "cppimport",
    "lief",
    "ml_dtypes",
)


@dataclass(frozen=True)
class Job:
    """The task of one quantiser: method, input and output files."""

    quantiser: str
    method: str
    graph: str  # FP32, with vit-edge's metadata
    images: str  # folder of the calibration images
    prepared: str  # the same images, preprocessed: .npy, float32 [N, 3, H, W]
    out: str


@dataclass(frozen=True)
class Outcome:
    """Time and peak memory of a quantiser, or its error."""

    seconds: float | None = None
    peak_mb: float | None = None
    error: str | None = None


# In the worker: one function per quantiser. It imports the tool, and returns the call to time.


def ours(job: Job) -> Callable[[], None]:
    import onnxruntime  # noqa: F401  imported here, so that loading is not timed

    from edge.builder import graph, image_sets, plan
    from edge.builder.precision import calibrate
    from edge.cli.console import Console

    def quantise() -> None:
        model = graph.load(Path(job.graph))
        files = image_sets.find(Path(job.images))
        ranges = calibrate.from_images(model, files, preprocess(model), job.method, Console())
        graph.save(plan.make_forms(model, "int8", ranges)["portable"], Path(job.out))

    return quantise


def onnxruntime_all(job: Job) -> Callable[[], None]:
    return onnxruntime_static(job, lambda _: {})


def onnxruntime_linears(job: Job) -> Callable[[], None]:
    """Q/DQ in edge's places only: on the input and the weight of the blocks' Linears."""

    def options(model: Any) -> dict[str, Any]:
        from edge.builder.precision.sites import linears

        wanted = {linear.node.name for linear in linears(model)}
        names = [node.name for node in model.graph.node if node.op_type == "MatMul"]
        return {
            "op_types_to_quantize": ["MatMul"],
            "nodes_to_exclude": [name for name in names if name not in wanted],
            # Otherwise Linear outputs are quantised, too, which makes the peer needlessly worse.
            "extra_options": {"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        }

    return onnxruntime_static(job, options)


def onnxruntime_static(job: Job, options: Callable[[Any], dict[str, Any]]) -> Callable[[], None]:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from edge.builder import graph, image_sets

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Supplies the preprocessed images one by one."""

        def __init__(self, model: Any) -> None:
            files = image_sets.find(Path(job.images))
            self.stream = image_sets.prepare(files, preprocess(model), skipped=print)
            self.input = model.graph.input[0].name

        def get_next(self) -> dict[str, Any] | None:
            _, tensor = next(self.stream, (None, None))
            return None if tensor is None else {self.input: tensor[None]}

    def quantise() -> None:
        model = graph.load(Path(job.graph))
        chosen = options(model)
        symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
        quantize_static(
            job.graph,
            job.out,
            Reader(model),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[job.method],
            **{**chosen, "extra_options": {**symmetric, **chosen.get("extra_options", {})}},
        )

    return quantise


def modelopt(job: Job) -> Callable[[], None]:
    import numpy as np
    from modelopt.onnx.quantization import quantize

    def quantise() -> None:
        quantize(
            job.graph,
            quantize_mode="int8",
            calibration_data=np.load(job.prepared),
            calibration_method=job.method,
            calibration_eps=["cpu"],
            # The default casts the rest of the graph to FP16, whose error does not belong to INT8.
            high_precision_dtype="fp32",
            output_path=job.out,
        )

    return quantise


QUANTISERS = {
    "vit-edge": ours,
    "onnxruntime, all ops": onnxruntime_all,
    "onnxruntime, Linears": onnxruntime_linears,
    "ModelOpt": modelopt,
}


def preprocess(model: Any) -> Any:
    """The graph's preprocessing, from its metadata."""
    from edge.builder.graph import metadata
    from edge.preprocess.spec import Preprocess

    return Preprocess.from_dict(metadata(model)["preprocess"])


def work(job: Job) -> None:
    """Quantise, and write time and peak memory beside the result."""
    quantise = QUANTISERS[job.quantiser](job)
    start = time.perf_counter()
    quantise()
    seconds = time.perf_counter() - start
    report(job).write_text(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory of this process, in MB.

    getrusage's ru_maxrss is not usable: after an exec it includes the parent process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def report(job: Job) -> Path:
    return Path(f"{job.out}.json")


# In the parent process.


def run_job(job: Job, python: str) -> Outcome:
    """Quantise in a process of its own; any failure becomes `Outcome.error`."""
    command = [python, str(Path(__file__).resolve()), json.dumps(asdict(job))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return Outcome(error=f"took more than {TIMEOUT} s")
    if done.returncode == 0:
        return Outcome(**json.loads(report(job).read_text()))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Outcome(error=f"killed by {name}" + " (no memory?)" * (name == "SIGKILL"))
    return Outcome(error=last_line(done.stderr) or f"ended with {done.returncode}")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


@dataclass(frozen=True)
class Peer:
    """ModelOpt's Python, or the reason why it is missing."""

    python: str | None
    why_none: str = ""


def modelopt_environment(folder: Path) -> Peer:
    """Create ModelOpt's environment, unless it exists."""
    python, marker = folder / "bin/python", folder / ".ready"
    wanted = "\n".join(MODELOPT)
    if marker.is_file() and marker.read_text() == wanted:
        return Peer(str(python))
    info(f"installing ModelOpt into {folder}: some minutes, once")
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished one
    for command in (
        ["/usr/bin/python3", "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *MODELOPT],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError as error:
            return Peer(None, f"cannot be installed: {error}")
        except subprocess.CalledProcessError as error:
            return Peer(None, f"cannot be installed: {last_line(error.stderr or error.stdout)}")
    marker.write_text(wanted)
    return Peer(str(python))


def info(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":  # a worker; ModelOpt's environment runs this file, too
    work(Job(**json.loads(sys.argv[1])))
