"""What tests of the build share: a recipe, the tiny graph in FP32 and INT8, how near is near."""

import shutil

import numpy as np
import pytest

from edge.builder import compile as compiling
from edge.builder import graph
from edge.builder.precision import quantize
from edge.builder.precision.ranges import Range
from edge.builder.precision.sites import linears
from edge.builder.recipes import Recipe


@pytest.fixture(scope="module")
def recipe(checkpoint, pictures, engines, tmp_path_factory):
    """A recipe whose graph is in the cache; a build of it in another folder exports it."""
    folder = tmp_path_factory.mktemp("warm")
    shutil.copytree(engines / ".cache", folder / ".cache")
    return Recipe(str(checkpoint), pictures, name="a", engines=folder, min_agreement=50)


@pytest.fixture(scope="module")
def fp32(fp32_graph):
    return graph.load(fp32_graph)


@pytest.fixture(scope="module")
def ranges(fp32):
    return {li.activation: Range(6.0, "minmax", 6.0, 6.0) for li in linears(fp32)}


@pytest.fixture(scope="module")
def int8(fp32, ranges):
    return quantize.to_qdq(fp32, ranges)


def prepared(count=4):
    """Noise of the size and spread of prepared pictures."""
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)


def sqnr(reference, output):
    return 10 * np.log10((reference**2).sum() / ((reference - output) ** 2).sum())


def compiled(model, folder):
    """The plan that TensorRT-RTX makes of a graph, for the pictures that it takes."""
    graph.save(model, folder / "model.onnx")
    _, *shape = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim)
    return compiling.compile_plan(
        folder / "model.onnx",
        "tensorrt-rtx",
        input_shape=tuple(shape),
        max_batch=2,
        cache=folder,
        progress=lambda *_: None,
    ).data
