"""The judge refuses what does not give FP32's answers, and says what is wrong with it.

Here on a CPU, with engines that change the logits; plans on a GPU are in `test_judging.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.engine import onnxruntime
from edge.engine.accuracy import Accuracy, Gate, plan_refusal
from edge.engine.engine import Engine
from edge.engine.judge import judge, own_accuracy
from edge.engine.onnxruntime import OnnxRuntime, products_saturate
from edge.engine.passport import Carried, Passport, Plan
from edge.engine.witnesses import Witnesses, network_images
from edge.errors import EngineError

Tensor = np.ndarray
Change = Callable[[Tensor, int], Tensor]


class Changed:
    """onnxruntime whose logits are changed: (logits, number of the batch) -> logits."""

    name = "onnxruntime"

    def __init__(self, folder: Path, change: Change):
        self._inner, self._change = OnnxRuntime(folder / "model.onnx", 1), change
        self.batches: list[int] = []

    def infer(self, batch: Tensor) -> Tensor:
        self.batches.append(len(batch))
        return self._change(self._inner.infer(batch), len(self.batches)).astype(np.float32)

    def close(self) -> None:
        self._inner.close()


GATE = Gate(99)


def judged(folder: Path, change: Change, gate: Gate | None = GATE) -> str:
    """Why the engine in `folder` is refused with these logits."""
    passport = Passport.read(folder)
    images = replace(passport, preprocess=network_images(passport.preprocess), gate=gate)
    with Engine(images, Changed(folder, change), "test") as engine:
        return judge(engine, Witnesses.load(folder, passport)).refused


def noisy(share: float) -> Change:
    def change(logits: Tensor, number: int) -> Tensor:
        noise = np.random.default_rng(0).standard_normal(logits.shape)
        return logits + share * np.sqrt((logits**2).mean()) * noise

    return change


def test_an_engine_that_gives_fp32_s_answers_passes(built_engine: Path) -> None:
    passport, steps = Passport.read(built_engine), list[tuple[int, int]]()
    images = replace(passport, preprocess=network_images(passport.preprocess))
    backend = Changed(built_engine, lambda logits, _: logits)
    with Engine(images, backend, "test") as engine:
        found = judge(
            engine, Witnesses.load(built_engine, passport), lambda *ran: steps.append(ran)
        )
    assert (found.refused, found.backend, found.batches) == ("", "onnxruntime", (1, 2, 4))
    assert found.accuracy == own_accuracy(passport, "onnxruntime")
    assert found.runs == 1
    assert set(backend.batches) == {1, 2, 4}
    done, total = zip(*steps, strict=True)
    assert list(done) == sorted(done) and set(total) == {done[-1]}
    assert str(found).startswith("agrees with FP32 on ")
    assert str(found).endswith(" dB with onnxruntime, in batches of 1, 2, 4")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda logits, _: np.eye(1, 5, 2).repeat(len(logits), 0), "it agrees with FP32 on "),
        (lambda logits, _: logits[:, [1, 0, 2, 3, 4]], "it agrees with FP32 on "),
        (lambda logits, _: logits[:, ::-1], "it agrees with FP32 on "),
        (lambda logits, _: logits * np.nan, "outputs are NaN or infinity, in batches of 1"),
        (
            lambda logits, _: logits * (np.inf if len(logits) == 4 else 1),
            "outputs are NaN or infinity, in batches of 4",
        ),
        (
            lambda logits, number: logits * (1 + 1e-6 * number),
            "a second run gives other outputs, in batches of 1",
        ),
        (
            lambda logits, _: logits[:, ::-1] if len(logits) == 2 else logits,
            "other outputs than one by one, in batches of 2",
        ),
        (noisy(0.2), "its outputs have an SQNR of "),
    ],
)
def test_what_is_wrong_is_said(change: Change, why: str, built_engine: Path) -> None:
    assert judged(built_engine, change).startswith(why)


@pytest.mark.skipif(not products_saturate(), reason="this CPU's INT8 products do not saturate")
def test_a_cpu_whose_int8_products_saturate_is_found(
    built_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before `edge.engine.onnxruntime` chose the exact kernels on such a CPU."""
    monkeypatch.setattr(onnxruntime, "products_saturate", lambda: False)
    assert judged(built_engine, lambda logits, _: logits).startswith("its outputs have an SQNR of ")


def test_noise_far_below_the_graph_s_own_passes(built_engine: Path) -> None:
    assert judged(built_engine, noisy(0.0001)) == ""


def test_without_a_gate_only_what_the_graph_is_not_to_blame_for_is_refused(
    built_engine: Path,
) -> None:
    assert judged(built_engine, lambda logits, _: logits, None) == ""
    assert "an SQNR of" in judged(built_engine, lambda logits, _: logits[:, ::-1], None)


@pytest.mark.parametrize(
    ("agreeing", "sqnr_db", "own_agreeing", "own_db", "passes"),
    [
        (64, 60.0, 64, 60.0, True),
        (63, 60.0, 64, 60.0, True),  # the gate's share of the witnesses, rounded up
        (62, 60.0, 64, 60.0, False),
        (60, 30.0, 60, 30.0, True),  # the graph itself disagrees on hard images
        (59, 30.0, 60, 30.0, True),
        (58, 30.0, 60, 30.0, False),
        (64, 28.1, 60, 30.0, True),  # 0.6 times as much noise again
        (64, 27.9, 60, 30.0, False),
        (64, 40.1, 64, 999.0, True),  # 1 %, as of attention in BF16
        (64, 39.9, 64, 999.0, False),
        (64, 34.0, 64, 60.0, False),  # 2 %
    ],
)
def test_what_a_plan_may_add(
    agreeing: int, sqnr_db: float, own_agreeing: int, own_db: float, passes: bool
) -> None:
    measured = Accuracy(64, 100 * agreeing / 64, sqnr_db, 0.1, None, None)
    own = Accuracy(64, 100 * own_agreeing / 64, own_db, 0.1, None, None)
    assert (plan_refusal(measured, own, Gate(99)) is None) == passes


def test_a_gate_of_100_percent_allows_no_further_image() -> None:
    own = Accuracy(64, 100.0, 60.0, 0.1, None, None)
    one = replace(own, agreement=100 * 63 / 64)
    assert "on 63 of 64 images, its graph on 64" in str(plan_refusal(one, own, Gate(100)))
    assert plan_refusal(one, one, Gate(100)) is None


def test_each_backend_is_held_against_the_graph_that_it_executes(built_engine: Path) -> None:
    passport = Passport.read(built_engine)
    plan = Plan("tensorrt", "fp16.onnx", "10.3.0", "X", "8.7", 4, "0" * 64)
    forms = {
        name: {
            form: Accuracy(8, 100.0, db, 0.1, None, None)
            for form, db in (("portable", db), ("device", db + 1))
        }
        for name, db in (("int8", 30.0), ("fp16", 50.0))
    }
    del forms["fp16"]["device"]  # has one form
    assert passport.witnesses is not None
    file = passport.files["model.onnx"]
    found = replace(
        passport,
        witnesses=replace(passport.witnesses, accuracy=forms),
        files={**passport.files, "fp16.onnx": file},
        candidates={"fp16": Carried("fp16.onnx", {}, None)},
    )

    def db(planned: Passport, backend: str) -> float:
        return own_accuracy(planned, backend).sqnr_db

    assert db(found, "onnxruntime") == db(found, "onnxruntime-cuda") == 30
    assert db(replace(found, plan=plan), "tensorrt") == 50
    assert db(replace(found, plan=replace(plan, graph="model.onnx")), "tensorrt") == 31
    without = replace(passport.witnesses, accuracy={})
    with pytest.raises(EngineError, match="no accuracy of INT8 on its witnesses"):
        own_accuracy(replace(found, witnesses=without), "onnxruntime")
