"""An engine that reads stamps: a real graph and passport, so that the real command runs it.

Its five most probable classes, all equally so, are the five fields of the stamp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.engine.heads import Head
from edge.engine.passport import File, Origin, Passport
from edge.preprocess.spec import Preprocess, Resize
from tests.chaos.stamps import COLUMNS, FIELDS, ROWS

__all__ = ["MAX_BATCH", "build", "values"]

MAX_BATCH = 8
BLOCK = 8  # pixels of the tensor, each way
HEIGHT, WIDTH = ROWS * BLOCK, COLUMNS * BLOCK
_STARTS = [sum(1 << bits for bits in FIELDS[:index]) for index in range(len(FIELDS))]


def values(class_ids: list[int]) -> tuple[int, ...] | None:
    """The values of FIELDS that the five most probable classes stand for."""
    found = [class_id - start for class_id, start in zip(sorted(class_ids), _STARTS, strict=True)]
    sane = all(0 <= value < 1 << bits for value, bits in zip(found, FIELDS, strict=True))
    return tuple(found) if sane else None


def build(folder: Path) -> Path:
    """Write the engine."""
    folder.mkdir(parents=True)
    onnx.save(_graph(), folder / "model.onnx")
    passport = Passport(
        name="stamp-reader",
        fingerprint="0",
        precision="fp32",
        checkpoint=Origin("none", "none", {}),
        head=Head(
            labels=tuple(
                f"field {i} is {n}" for i, bits in enumerate(FIELDS) for n in range(1 << bits)
            )
        ),
        outputs=sum(1 << bits for bits in FIELDS),
        preprocess=Preprocess(
            HEIGHT, WIDTH, Resize("stretch", HEIGHT, WIDTH), 2, None, 1 / 255, None, None
        ),
        max_batch=MAX_BATCH,
        tools={},
        calibration=None,
        judged=True,
        accuracy={},
        files={"model.onnx": File.of(folder / "model.onnx")},
    )
    passport.write(folder)
    return folder


def _graph() -> onnx.ModelProto:
    """float32 [N, 3, 40, 64] -> float32 [N, classes]: each block is a bit, each field a class."""
    weights = np.zeros((sum(FIELDS), len(FIELDS)), np.float32)
    row = 0
    for column, bits in enumerate(FIELDS):
        weights[row : row + bits, column] = 2 ** np.arange(bits)
        row += bits
    constants = {
        "half": np.float32(0.5),
        "flat": np.array([0, -1], np.int64),
        "weights": weights,
        "heights": np.array([0, 20], np.float32),
        **{f"size{i}": np.int64(1 << bits) for i, bits in enumerate(FIELDS)},
        **{f"at{i}": np.int64(i) for i in range(len(FIELDS))},
    }
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["grey"], axes=[1]),
        helper.make_node(
            "AveragePool", ["grey"], ["blocks"], kernel_shape=[BLOCK] * 2, strides=[BLOCK] * 2
        ),
        helper.make_node("Greater", ["blocks", "half"], ["set"]),
        helper.make_node("Cast", ["set"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["ones", "flat"], ["bits"]),
        helper.make_node("MatMul", ["bits", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["values"], to=TensorProto.INT64),
    ]
    for i in range(len(FIELDS)):
        nodes += [
            helper.make_node("Gather", ["values", f"at{i}"], [f"value{i}"], axis=1),
            helper.make_node("OneHot", [f"value{i}", f"size{i}", "heights"], [f"field{i}"]),
        ]
    fields = [f"field{i}" for i in range(len(FIELDS))]
    nodes.append(helper.make_node("Concat", fields, ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "stamp reader",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
