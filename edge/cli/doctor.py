"""`edge doctor`: the installed parts, the backends and memory paths that work, and fixes."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge import __version__
from edge.engine import onnxruntime_cuda
from edge.errors import EdgeError, MissingPackage, install_hint, require
from edge.gpu import nvidia
from edge.gpu.kernels import compiler
from edge.sources.gst import gstreamer
from edge.sources.memory import gstcuda
from edge.sources.memory.nvbufsurface import NvBufSurface

__all__ = ["Check", "examine"]


# The GStreamer elements that each kind of source needs, and their packages.
_GOOD, _BAD = "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-bad"
_L4T = "nvidia-l4t-gstreamer (on a Jetson)"
_SOURCES = {
    "file and H.264": (
        ("qtdemux", _GOOD),
        ("h264parse", _BAD),
        ("avdec_h264", "gstreamer1.0-libav"),
    ),
    "RTSP": (("rtspsrc", _GOOD), ("rtph264depay", _GOOD)),
    "USB camera": (("v4l2src", _GOOD), ("jpegdec", _GOOD)),
    "CSI camera": (("nvarguscamerasrc", _L4T),),
    "Jetson decoder": (("nvv4l2decoder", _L4T), ("nvvidconv", _L4T)),
}


@dataclass(frozen=True)
class Check:
    """A component that works on this machine, or does not; then `detail` has the fix."""

    name: str
    works: bool
    detail: str

    def line(self) -> str:
        return f"{'ok' if self.works else '--':<3} {self.name:<22} {self.detail}"


def examine() -> Iterator[Check]:
    """All checks, one at a time; a check that fails does not stop the others."""
    l4t = nvidia.l4t_version()
    machine = f"Jetson, L4T {l4t}" if l4t else f"PC, {platform.machine()}"
    yield Check(
        "vit-edge",
        True,
        f"{__version__} on Python {sys.version.split()[0]}, {machine}, "
        f"{len(os.sched_getaffinity(0))} CPUs",
    )
    gpu = nvidia.gpu()
    yield Check(
        "NVIDIA GPU",
        gpu is not None,
        f"{gpu.name}, compute capability {gpu.compute_capability}"
        if gpu
        else "no driver (libcuda.so.1) or no device; in a container add --runtime nvidia",
    )
    for name in ("numpy", "PIL", "cv2", "onnx", "onnxruntime"):
        yield _package(name)
    for backend in nvidia.BACKENDS:
        yield _tensorrt(backend, gpu is not None)
    yield _onnxruntime_cuda(gpu is not None)
    yield _package("pycuda")
    yield from _gstreamer()
    yield from _frame_paths(gpu)
    # Without a home matplotlib says at length that it keeps its fonts in a temporary folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for name in ("torch", "transformers", "onnxsim", "jinja2", "matplotlib"):
        check = _package(name)
        yield (
            check
            if check.works
            else Check(name, False, f"{check.detail} (only a machine that builds engines needs it)")
        )


def _frame_paths(gpu: nvidia.Gpu | None) -> Iterator[Check]:
    """The memory paths from a source to the network, and what is missing for each."""
    numba = _package("numba")
    engine = f"Pillow; faster with numba: {numba.detail}"
    if numba.works:
        from edge.preprocess import compiled

        engine = f"numba {numba.detail}{'' if compiled.CACHED else f', {compiled.NOT_CACHED}'}"
    yield Check("frame path system", True, f"the CPU prepares frames, with {engine}")
    needs: dict[str, tuple[str, tuple[Callable[[], object], ...]]] = {
        "pinned": ("one copy to memory that the GPU reads", ()),
        "cuda": ("no copy: GStreamer's CUDA memory, as nvh264dec makes it", (gstcuda.gst_cuda,)),
        "nvmm": (
            "no copy: a Jetson's cameras and decoders",
            (NvBufSurface.here, lambda: require("cuda.bindings.driver")),
        ),
    }
    for name, (what, probes) in needs.items():
        detail = ""
        if gpu is None:
            detail = "there is no NVIDIA GPU, see above"
        else:
            try:
                for probe in (lambda: require("pycuda.driver"), compiler, *probes):
                    probe()
                what = f"{what}; {_network_on_gpu()}"
            except EdgeError as error:
                detail = str(error)
        yield Check(f"frame path {name}", not detail, detail or what)


def _network_on_gpu() -> str:
    """The backends that can run a network on the GPU, and whether they use CUDA graphs.

    Raises `MissingPackage` if there is none.
    """
    if backends := nvidia.installed():
        graphs = _package("cuda.bindings.driver")
        how = "with CUDA graphs" if graphs.works else f"without CUDA graphs: {graphs.detail}"
        return f"{' or '.join(backends)}, {how}"
    try:
        onnxruntime_cuda.check()
    except EdgeError as error:
        names = ", ".join((*nvidia.BACKENDS, onnxruntime_cuda.NAME))
        raise MissingPackage(f"no backend here uses a GPU ({names})", "see above") from error
    return f"{onnxruntime_cuda.NAME}, without CUDA graphs"


def _package(name: str) -> Check:
    try:
        module = require(name)
    except EdgeError as error:
        return Check(name, False, error.hint.removeprefix("run "))
    except Exception as error:  # importing a broken package may raise anything
        return Check(name, False, f"is installed but does not load: {error}")
    found = getattr(module, "__version__", None) or getattr(module, "VERSION_TEXT", "")
    return Check(name, True, f"{found}".strip())


def _tensorrt(backend: str, gpu: bool) -> Check:
    if backend not in nvidia.installed():
        return Check(backend, False, install_hint(nvidia.MODULES[backend]))
    try:
        found = nvidia.tensorrt(backend).__version__
    except EdgeError as error:
        # Its hint names this command, unless the reason is known.
        hint = "" if error.hint == nvidia.SEE_DOCTOR else f"; {error.hint}"
        return Check(backend, False, f"{error.problem}{hint}")
    if not gpu:
        can = "compiles plans here" if backend == "tensorrt-rtx" else "compiles nothing here"
        return Check(backend, True, f"{found}; without a GPU it {can}, and runs none")
    return Check(backend, True, found)


def _onnxruntime_cuda(gpu: bool) -> Check:
    if not gpu:
        return Check(onnxruntime_cuda.NAME, False, "there is no NVIDIA GPU, see above")
    try:
        return Check(
            onnxruntime_cuda.NAME, True, f"{onnxruntime_cuda.probe()}; runs engines without a plan"
        )
    except EdgeError as error:
        return Check(onnxruntime_cuda.NAME, False, str(error))


def _gstreamer() -> Iterator[Check]:
    try:
        gst = gstreamer()
    except EdgeError as error:
        yield Check("GStreamer", False, error.hint.removeprefix("run "))
        return
    yield Check("GStreamer", True, gst.version_string().removeprefix("GStreamer "))
    for what, elements in _SOURCES.items():
        missing = [package for name, package in elements if not gst.ElementFactory.find(name)]
        names = ", ".join(name for name, _ in elements)
        detail = f"sudo apt install {missing[0]}" if missing else names
        yield Check(f"source {what}", not missing, detail)
