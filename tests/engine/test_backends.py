import dataclasses

import pytest

from edge.engine.backends import check_plan, choose
from edge.engine.engine import Engine
from edge.engine.passport import Passport, Plan
from edge.errors import EngineError
from edge.gpu import nvidia


def test_an_unknown_backend_is_refused(built_engine):
    with pytest.raises(EngineError, match="choose one of: auto, onnxruntime, onnxruntime-cuda, t"):
        Engine.open(built_engine, backend="openvino")


def test_without_a_gpu_the_cpu_is_chosen_and_the_reason_is_reported(built_engine, monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    with Engine.open(built_engine) as opened:
        assert opened.backend == "onnxruntime"
        assert opened.reason


def test_on_a_jetson_the_cpu_must_be_requested_explicitly(built_engine, monkeypatch):
    monkeypatch.setenv("EDGE_PLATFORM", "jetson")
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    with pytest.raises(EngineError, match=r"CPU of this Jetson.*--backend onnxruntime"):
        Engine.open(built_engine)
    Engine.open(built_engine, backend="onnxruntime").close()


ORIN = nvidia.Gpu("Orin", "8.7")


@pytest.fixture
def planned(built_engine, monkeypatch):
    """A passport with a plan for TensorRT 10.3 on an Orin, and a machine that has both."""
    passport = Passport.read(built_engine)
    sha = passport.files["model.onnx"].sha256
    plan = Plan("tensorrt", "model.onnx", "10.3.0", ORIN.name, ORIN.compute_capability, 4, sha)
    monkeypatch.setattr(nvidia, "gpu", lambda: ORIN)
    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt"])

    class Bindings:
        __version__ = "10.3.0"

    monkeypatch.setattr(nvidia, "tensorrt", lambda _: Bindings)
    return passport, plan, Bindings


def check(built_engine, passport, plan):
    check_plan(built_engine, dataclasses.replace(passport, plan=plan), "tensorrt")


def test_a_plan_of_this_machine_is_accepted(built_engine, planned):
    check(built_engine, *planned[:2])


def test_a_plan_of_another_tensorrt_version_is_refused_before_loading(built_engine, planned):
    planned[2].__version__ = "10.13.3"
    with pytest.raises(
        EngineError, match=r"10\.3\.0, but this machine has 10\.13\.3; .*edge compile"
    ):
        check(built_engine, *planned[:2])


def test_a_plan_for_another_gpu_is_refused_before_loading(built_engine, planned, monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("Thor", "11.0"))
    with pytest.raises(EngineError, match=r"for Orin \(compute capability 8\.7\).*Thor \(11\.0\)"):
        check(built_engine, *planned[:2])


def test_a_plan_compiled_from_another_graph_is_refused(built_engine, planned):
    passport, plan, _ = planned
    with pytest.raises(EngineError, match=r"another version of model\.onnx"):
        check(built_engine, passport, dataclasses.replace(plan, model_sha256="0" * 64))


def test_a_missing_plan_or_gpu_is_reported(built_engine, planned, monkeypatch):
    passport, plan, _ = planned
    with pytest.raises(EngineError, match=r"has no tensorrt plan; .* --backend tensorrt$"):
        check(built_engine, passport, None)
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        check(built_engine, passport, plan)


def test_a_missing_tensorrt_is_reported_with_an_alternative(built_engine, monkeypatch):
    """edge compile would compile for another backend, or fail."""
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt-rtx"])
    with pytest.raises(EngineError) as caught:
        Engine.open(built_engine, backend="tensorrt")
    assert str(caught.value) == (
        "tensorrt is not installed on this machine; use --backend onnxruntime, or see edge doctor"
    )


def test_auto_chooses_the_plan_if_it_can_run(built_engine, planned):
    passport, plan, _ = planned
    chosen = choose(built_engine, dataclasses.replace(passport, plan=plan), "auto")
    assert chosen[0] == "tensorrt"
