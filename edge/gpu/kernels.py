"""A kernel's source becomes a cubin for one GPU: by nvcc through PyCUDA, or by NVRTC without it.

`python -m edge.gpu.kernels 8.7` compiles all that vit-edge has, so that the first start need not.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import BackendError, EdgeError, MissingPackage, StorageError, require
from edge.files.storage import make_folder, write_bytes

__all__ = ["OPTIONS", "Nvcc", "Nvrtc", "compiler", "find_nvcc", "kernel_image"]

# No fused multiply-adds: a kernel rounds as the same sum does on the CPU, which it is tested with.
OPTIONS = ("--std=c++17", "--fmad=false")
_DIGEST = hashlib.sha256().digest_size


def kernel_image(
    source: Path, compute_capability: str, info: Callable[[str], None] = lambda text: None
) -> bytes:
    """The cubin of a .cu that includes nothing, for a GPU of capability 8.7 or so.

    It is kept in $XDG_CACHE_HOME/vit-edge/kernels. say: is told which compiler works, and what is
    in the way of keeping it. Raises `BackendError` with the compiler's log, `MissingPackage`
    without a compiler.
    """
    if not re.fullmatch(r"\d+\.\d", compute_capability):
        raise BackendError(
            f"{compute_capability!r} is no compute capability", "give one such as 8.7"
        )
    arch = "sm_" + compute_capability.replace(".", "")
    text = source.read_bytes()
    by = compiler()
    key = hashlib.sha256(repr((text, OPTIONS, arch, by.name)).encode()).hexdigest()
    kept = _cache() / key
    cubin = _read(kept)
    if cubin is None:
        info(f"compiling {source.name} for {arch} by {by.name}")
        cubin = by.compile(text.decode(), source, arch)
        try:
            make_folder(kept.parent)
            write_bytes(kept, hashlib.sha256(cubin).digest() + cubin)
        except StorageError as error:
            info(f"{source.name} is compiled at each start: {error}")
    return cubin


def compiler() -> Nvcc | Nvrtc:
    """nvcc where it and PyCUDA are installed, else NVRTC. Raises `MissingPackage` without both."""
    nvcc = find_nvcc()
    if nvcc and importlib.util.find_spec("pycuda"):
        return Nvcc(nvcc)
    return Nvrtc()


def find_nvcc(local: Path = Path("/usr/local")) -> str | None:
    """nvcc of $CUDA_HOME, of the PATH, or of a toolkit in `local`: its default, else the newest."""
    home = os.environ.get("CUDA_HOME")
    toolkits = [local / "cuda", *sorted(local.glob("cuda-*"), key=_version, reverse=True)]
    places = [f"{home}/bin"] if home else []
    places += [os.environ.get("PATH", os.defpath), *(str(path / "bin") for path in toolkits)]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def _version(toolkit: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", toolkit.name)]


class Nvcc:
    """The CUDA toolkit's compiler, as PyCUDA calls it."""

    def __init__(self, path: str) -> None:
        self._path = path
        done = subprocess.run([path, "--version"], capture_output=True, text=True)
        release = re.search(r"\bV(\d[\d.]*)", done.stdout)
        if done.returncode or not release:
            raise BackendError(
                f"{path} --version says {done.stdout or done.stderr}", "install CUDA again"
            )
        self.name = f"nvcc {release[1]}"

    def compile(self, text: str, source: Path, arch: str) -> bytes:
        """Raises `BackendError`."""
        pycuda: Any = require("pycuda.compiler")
        options = list(OPTIONS)
        try:
            # The cache is ours: PyCUDA's does not notice when a file in it is damaged.
            cubin: bytes = pycuda.compile(
                text, self._path, options, no_extern_c=True, arch=arch, cache_dir=False
            )
        except (
            Exception
        ) as error:  # CompileError is in pycuda.driver, which only edge.gpu.device knows
            log = getattr(error, "stderr", None) or str(error)
            raise _refused(self.name, source, arch, log) from error
        return cubin


class Nvrtc:
    """NVIDIA's compiler as a library, from PyPI or from a CUDA toolkit."""

    def __init__(self) -> None:
        self._library = _load_nvrtc()
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"

    def compile(self, text: str, source: Path, arch: str) -> bytes:
        """Raises `BackendError`."""
        program = ctypes.c_void_p()
        name = source.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), name, 0, None, None)
        try:
            options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}")]
            array = (ctypes.c_char_p * len(options))(*options)
            if self._library.nvrtcCompileProgram(program, len(options), array):
                log = self._output("nvrtcGetProgramLog", program).decode(errors="replace")
                raise _refused(self.name, source, arch, log.rstrip("\0"))
            return self._output("nvrtcGetCUBIN", program)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _output(self, call: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{call}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(call, program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            words = self._library.nvrtcGetErrorString(code).decode()
            raise BackendError(f"{name} failed: {words}", "install nvidia-cuda-nvrtc again")


def _load_nvrtc() -> ctypes.CDLL:
    folders = [Path(entry).absolute() for entry in sys.path if entry]
    found = [path for folder in folders for path in folder.glob("nvidia/*/lib/libnvrtc.so.*")]
    # The newest there is: it knows the most GPUs.
    newest = sorted(found, key=lambda path: path.suffix.zfill(4), reverse=True)
    system = [Path(f"libnvrtc.so.{major}") for major in (13, 12)]
    for path in (*newest, *system, Path("/usr/local/cuda/lib64/libnvrtc.so")):
        try:
            # It asks for this one by its bare name, which is found once it is loaded.
            if path.is_absolute():
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise MissingPackage(
        "there is no compiler for CUDA kernels: neither nvcc with PyCUDA nor NVRTC",
        "run in the vit-edge folder: .venv/bin/pip install -c constraints.txt nvidia-cuda-nvrtc",
    )


def _refused(by: str, source: Path, arch: str, log: str) -> BackendError:
    return BackendError(
        f"{by} cannot compile {source} for {arch}: {log.strip()}",
        "install a CUDA that knows this GPU; if it does, please report it as a bug",
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vit-edge/kernels"


def _read(kept: Path) -> bytes | None:
    """A cubin that was kept whole, behind its SHA-256."""
    try:
        data = kept.read_bytes()
    except OSError:
        return None
    cubin = data[_DIGEST:]
    return cubin if hashlib.sha256(cubin).digest() == data[:_DIGEST] else None


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _main() -> int:
    sources = sorted(Path(__file__).parents[1].rglob("*.cu"))
    try:
        for capability in sys.argv[1:] or ["8.7"]:
            for source in sources:
                kernel_image(source, capability, _tell)
    except EdgeError as error:
        _tell(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
