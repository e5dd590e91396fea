"""Detection of NVIDIA hardware and software: Jetson, GPU, and the two TensorRT packages.

`tensorrt` and `tensorrt-rtx` have the same Python API under two names; only this module knows the
names. It queries everything on demand, and imports no NVIDIA package at the top.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge.errors import EdgeError, MissingPackage, require

__all__ = [
    *("BACKENDS", "SEE_DOCTOR", "Gpu", "gpu", "installed", "is_jetson", "l4t_version"),
    *("tensorrt", "version"),
]

BACKENDS = ("tensorrt", "tensorrt-rtx")
SEE_DOCTOR = "see edge doctor"
# Libraries of a Jetson that a container took from the board until JetPack 6.
_BOARD_LIBRARY = re.compile(
    r"\blibnv(dla_compiler|dla_runtime|cudla|os|rm_[a-z]+|media\w*)\.so[.\d]*"
)
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
DISTRIBUTIONS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13-bindings"}


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name and its compute capability, such as 8.7."""

    name: str
    compute_capability: str


@lru_cache(maxsize=1)
def gpu() -> Gpu | None:
    """The first CUDA device, as reported by the driver; None without a driver or a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    # CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR 75, COMPUTE_CAPABILITY_MINOR 76 (cuda.h).
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def l4t_version() -> str | None:
    """The Jetson's L4T release, such as R36.4.3, from /etc/nv_tegra_release; None elsewhere."""
    release = Path("/etc/nv_tegra_release")
    if not release.is_file():
        return None
    match = re.search(r"# (R\d+).*?REVISION: ([\d.]+)", release.read_text(errors="replace"))
    return f"{match[1]}.{match[2]}" if match else "unknown"


def is_jetson() -> bool:
    """Whether this is a Jetson. `EDGE_PLATFORM=pc` or `jetson` overrides the detection."""
    forced = os.environ.get("EDGE_PLATFORM")
    return forced == "jetson" if forced else l4t_version() is not None


def installed() -> list[str]:
    """Those of `BACKENDS` whose Python package is installed, best first."""
    return [name for name in BACKENDS if importlib.util.find_spec(MODULES[name]) is not None]


def version(backend: str) -> str:
    """The installed version of `tensorrt` or `tensorrt-rtx`. Raises `MissingPackage`."""
    try:
        # Faster than loading the libraries. Debian's packages have this metadata, too.
        return importlib.metadata.version(DISTRIBUTIONS[backend])
    except importlib.metadata.PackageNotFoundError:
        return str(tensorrt(backend).__version__)


def tensorrt(backend: str) -> Any:
    """Import the package of `tensorrt` or `tensorrt-rtx`.

    Raises `MissingPackage`; its hint is the command that installs the package.
    """
    if backend == "tensorrt-rtx":
        require("tensorrt_rtx_libs")  # makes NVIDIA's libraries available to the bindings
    try:
        return require(MODULES[backend])
    except EdgeError:
        raise
    except Exception as error:  # the bindings raise plain Exception if libraries do not match
        raise MissingPackage(
            f"{backend} is installed, but cannot be loaded ({error})", _why_not(str(error))
        ) from error


def _why_not(message: str) -> str:
    """A hint for a TensorRT that cannot be loaded.

    Up to JetPack 6 a container took a Jetson's own libraries from the board. From JetPack 7.2 on
    the board no longer has them, and the images whose tags end in -igpu, which need them, fail.
    """
    if found := _BOARD_LIBRARY.search(message):
        return (
            f"{found[0]} belongs to the board, and a host with JetPack 7.2 does not have it: use "
            "an image for JetPack 7.2 (make image JETPACK=7), not one tagged -igpu; with JetPack 6 "
            "start the container with --runtime nvidia"
        )
    return SEE_DOCTOR
