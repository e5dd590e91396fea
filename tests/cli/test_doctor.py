import importlib
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from edge.cli import doctor
from edge.engine import onnxruntime_cuda
from edge.errors import MissingPackage, install_hint
from edge.gpu import nvidia

# onnxruntime's, of a provider that this machine does not have.
pytestmark = pytest.mark.filterwarnings("ignore:Specified provider")


def found():
    return {check.name: check for check in doctor.examine()}


def test_what_is_missing_comes_with_its_mend(monkeypatch):
    monkeypatch.setattr(nvidia, "installed", lambda: [])
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    checks = found()
    assert not checks["NVIDIA GPU"].works
    assert "sudo apt install python3-libnvinfer" in checks["tensorrt"].detail
    assert "'.[rtx]'" in checks["tensorrt-rtx"].detail
    assert all(check.detail for check in checks.values() if not check.works)


def test_a_gpu_and_a_jetson_are_named(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("Orin", "8.7"))
    monkeypatch.setattr(nvidia, "l4t_version", lambda: "R36.4.3")
    checks = found()
    assert "Orin, compute capability 8.7" in checks["NVIDIA GPU"].detail
    assert "Jetson, L4T R36.4.3" in checks["vit-edge"].detail


def test_onnxruntime_on_the_gpu_is_told(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    check = found()["onnxruntime-cuda"]
    assert (check.works, check.detail) == (False, "there is no NVIDIA GPU, see above")
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("Orin", "8.7"))
    monkeypatch.setattr(
        onnxruntime_cuda, "require", lambda name: None if "pycuda" in name else onnxruntime
    )
    check = found()["onnxruntime-cuda"]
    assert not check.works
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in check.detail
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    check = found()["onnxruntime-cuda"]
    assert not check.works
    listed = (
        f"onnxruntime {onnxruntime.__version__} lists CUDAExecutionProvider and does not use it"
    )
    assert check.detail.startswith(listed)
    session = SimpleNamespace(get_providers=lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    check = found()["onnxruntime-cuda"]
    assert check.works
    assert onnxruntime.__version__ in check.detail


def test_the_graph_of_the_probe_runs():
    session = onnxruntime.InferenceSession(onnxruntime_cuda._GRAPH)
    assert session.run(None, {"x": np.array([-2], np.float32)})[0] == [2]


@pytest.mark.parametrize("library", ["libnvdla_compiler.so", "libnvos.so", "libnvcudla.so.1"])
def test_a_container_for_another_jetpack_is_named(monkeypatch, library):
    """As TensorRT 10.7 fails in an image for JetPack 6 on a host with 7.2."""
    reason = f"{library}: cannot open shared object file: No such file or directory"

    def fail(name):
        raise ImportError(reason)

    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt"])
    monkeypatch.setattr(nvidia, "require", fail)
    check = found()["tensorrt"]
    assert not check.works
    assert reason in check.detail
    assert f"{library} belongs to the board" in check.detail
    assert "make image JETPACK=7" in check.detail and "-igpu" in check.detail


def test_another_library_that_is_missing_is_told_as_it_is(monkeypatch):
    def fail(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt"])
    monkeypatch.setattr(nvidia, "require", fail)
    detail = found()["tensorrt"].detail
    assert detail.endswith("(libnvinfer.so.10: cannot open shared object file)")


@pytest.mark.parametrize("error", [MissingPackage("x", "run make"), RuntimeError("broken")])
def test_one_broken_package_stops_no_other_check(monkeypatch, error):
    require = doctor.require

    def fail(name):
        if name == "onnx":
            raise error
        return require(name)

    monkeypatch.setattr(doctor, "require", fail)
    checks = found()
    assert not checks["onnx"].works
    assert checks["onnxruntime"].works


def test_without_gstreamer_the_mend_is_the_system_s_package(monkeypatch):
    def fail():
        raise MissingPackage("gi cannot be imported", f"run {install_hint('gi')}")

    monkeypatch.setattr(doctor, "gstreamer", fail)
    assert "python3-gst-1.0" in found()["GStreamer"].detail


def test_the_release_file_of_a_jetson_is_read(monkeypatch, tmp_path):
    release = tmp_path / "nv_tegra_release"
    release.write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    )
    monkeypatch.setattr(nvidia, "Path", lambda _: release)
    assert nvidia.l4t_version() == "R36.4.3"


def test_each_frame_path_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: None)
    checks = found()
    assert checks["frame path system"].works
    for name in ("pinned", "cuda", "nvmm"):
        check = checks[f"frame path {name}"]
        assert (check.works, check.detail) == (False, "there is no NVIDIA GPU, see above")
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("Orin", "8.7"))
    real = doctor.require
    monkeypatch.setattr(doctor, "require", lambda name: None if "pycuda" in name else real(name))
    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt"])
    checks = found()
    assert checks["frame path pinned"].works
    assert "NvBufSurface" in checks["frame path nvmm"].detail  # this PC is no Jetson


def test_a_frame_path_names_what_runs_the_network_behind_it(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("Orin", "8.7"))
    absent = set()

    def require(name):
        if name in absent:
            raise MissingPackage(
                f"{name} cannot be imported", f"run {install_hint(name.split('.')[0])}"
            )
        return None if "pycuda" in name else importlib.import_module(name)

    for module in (doctor, onnxruntime_cuda):
        monkeypatch.setattr(module, "require", require)
    monkeypatch.setattr(nvidia, "installed", lambda: ["tensorrt", "tensorrt-rtx"])
    assert found()["frame path pinned"].detail.endswith(
        "; tensorrt or tensorrt-rtx, with CUDA graphs"
    )
    absent.add("cuda.bindings.driver")
    detail = found()["frame path pinned"].detail
    assert "without CUDA graphs: in the vit-edge folder" in detail and "'.[cuda]'" in detail
    monkeypatch.setattr(nvidia, "installed", lambda: [])
    check = found()["frame path pinned"]
    assert not check.works
    assert "no backend here uses a GPU (tensorrt, tensorrt-rtx, onnxruntime-cuda)" in check.detail
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    check = found()["frame path pinned"]
    assert check.works
    assert check.detail.endswith("; onnxruntime-cuda, without CUDA graphs")
