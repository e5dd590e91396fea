"""Our graphs in NVIDIA's own parser and builder, with TensorRT-RTX, which needs no GPU."""

import os
import signal
import subprocess
import sys
import time

import pytest

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.precision import fp16, quantize
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import sites
from edge.errors import CompileError
from edge.gpu import nvidia
from tests.conftest import needs_rtx

pytestmark = needs_rtx


def build(path, tmp_path, **changes):
    settings = {
        "input_shape": (3, 32, 32),
        "max_batch": 4,
        "cache": tmp_path,
        "progress": lambda *_: None,
        **changes,
    }
    return compiling.compile_plan(path, "tensorrt-rtx", **settings)


@pytest.fixture(scope="module")
def graphs(fp32_graph, tmp_path_factory):
    """The engine's graphs in every precision and form."""
    folder = tmp_path_factory.mktemp("graphs")
    fp32 = graph.load(fp32_graph)
    ranges = {
        site.activation: Range(
            6.0, "minmax", 6.0, 6.0, shift=0.5 if site.norm is None and site.values is None else 0.0
        )
        for site in sites(fp32)
    }
    int8 = quantize.to_qdq(fp32, ranges)
    # Two Linears, one of them with its GELU, and the residual stream from one Add on.
    kept = [site.linears[0].node.name for site in sites(fp32)[2:4]]
    kept += [node.name for node in fp32.graph.node if node.op_type in ("Add", "Gelu")][1:]
    made = {
        "fp32": fp32,
        "fp16": fp16.to_fp16(fp32),
        "int8": int8,
        "int8-fp16": fp16.to_fp16(int8),
        "fp16-kept": fp16.to_fp16(fp32, kept),
        "int8-kept": fp16.to_fp16(int8, kept),
    }
    for name, model in made.items():
        graph.save(model, folder / f"{name}.onnx")
    return folder


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8-fp16", "fp16-kept", "int8-kept"])
def test_tensorrt_takes_every_precision(graphs, tmp_path, name):
    heard = []
    compiled = build(graphs / f"{name}.onnx", tmp_path, progress=lambda *step: heard.append(step))
    assert len(compiled.data) > 10_000
    plan = compiled.plan("tensorrt-rtx", "model.onnx", 4, "ab")
    assert (plan.version, plan.max_batch) == (nvidia.tensorrt("tensorrt-rtx").__version__, 4)
    assert plan.gpu == (nvidia.gpu() and nvidia.gpu().name)
    assert heard and all(0 < done <= total for _, done, total in heard)


def test_a_corrupt_graph_is_a_compile_error(tmp_path):
    for content in (b"not protobuf", b"\x08\x08"):
        (tmp_path / "cut.onnx").write_bytes(content)
        with pytest.raises(CompileError, match=r"cut\.onnx"):
            build(tmp_path / "cut.onnx", tmp_path)


def test_an_operator_that_tensorrt_lacks_is_named(graphs, tmp_path):
    model = graph.load(graphs / "fp32.onnx")
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Unknown"
    graph.save(model, tmp_path / "odd.onnx")
    with pytest.raises(CompileError, match="Unknown"):
        build(tmp_path / "odd.onnx", tmp_path)


def test_a_profile_that_does_not_fit_is_a_compile_error(graphs, tmp_path):
    with pytest.raises(CompileError):
        build(graphs / "fp32.onnx", tmp_path, input_shape=(3, 48, 48))


def test_half_of_the_free_memory_is_the_workspace():
    assert (
        1 << 20
        < compiling._workspace_bytes()
        < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )


def test_ctrl_c_stops_a_build(graphs, tmp_path):
    script = f"""
import signal
import sys
from pathlib import Path
from edge.builder.compile import compile_plan
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
def heard(*step):
    print("building", flush=True)
try:
    while True:
        compile_plan(Path({str(graphs / "fp32.onnx")!r}), "tensorrt-rtx", input_shape=(3, 32, 32),
                     max_batch=4, cache=Path({str(tmp_path)!r}), progress=heard)
except KeyboardInterrupt:
    sys.exit(7)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "building\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 7
