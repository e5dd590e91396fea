"""Compilation of CUDA kernels to cubins, with a cache: by nvcc through PyCUDA, or by NVRTC.

`python -m edge.gpu.kernels 8.7` compiles all kernels of vit-edge ahead of the first start, for the
given compute capabilities.
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
from edge.files.reading import read_bytes
from edge.files.storage import make_folder, write_bytes

__all__ = ["OPTIONS", "Nvcc", "Nvrtc", "compiler", "find_nvcc", "kernel_image"]

# No fused multiply-adds, so that a kernel rounds like the same formula on the CPU, where it is
# tested.
OPTIONS = ("--std=c++17", "--fmad=false")
_DIGEST = hashlib.sha256().digest_size


def kernel_image(
    source: Path, compute_capability: str, info: Callable[[str], None] = lambda text: None
) -> bytes:
    """The cubin of a .cu file without includes, for a compute capability such as 8.7.

    Cubins are cached in $XDG_CACHE_HOME/vit-edge/kernels. info: called with a text when a kernel is
    compiled, and when the cache cannot be written. Raises `BackendError` with the compiler's log,
    and `MissingPackage` without a compiler.
    """
    if not re.fullmatch(r"\d+\.\d", compute_capability):
        raise BackendError(
            f"{compute_capability!r} is not a compute capability", "give one such as 8.7"
        )
    arch = "sm_" + compute_capability.replace(".", "")
    text = source.read_bytes()
    found = compiler()
    key = hashlib.sha256(repr((text, OPTIONS, arch, found.name)).encode()).hexdigest()
    cached = _cache() / key
    cubin = _read(cached)
    if cubin is None:
        info(f"compiling {source.name} for {arch} with {found.name}")
        cubin = found.compile(text.decode(), source, arch)
        try:
            make_folder(cached.parent)
            write_bytes(cached, hashlib.sha256(cubin).digest() + cubin)
        except StorageError as error:
            info(f"{source.name} will be compiled at each start: {error}")
    return cubin


def compiler() -> Nvcc | Nvrtc:
    """nvcc if it and PyCUDA are installed, else NVRTC. Raises `MissingPackage` without both."""
    nvcc = find_nvcc()
    if nvcc and importlib.util.find_spec("pycuda"):
        return Nvcc(nvcc)
    return Nvrtc()


def find_nvcc(local: Path = Path("/usr/local")) -> str | None:
    """The path of nvcc: in $CUDA_HOME, else on the PATH, else in a toolkit in `local`.

    Of several toolkits, `cuda` is preferred, then the newest `cuda-*`.
    """
    home = os.environ.get("CUDA_HOME")
    toolkits = [local / "cuda", *sorted(local.glob("cuda-*"), key=_version, reverse=True)]
    places = [f"{home}/bin"] if home else []
    places += [os.environ.get("PATH", os.defpath), *(str(path / "bin") for path in toolkits)]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def _version(toolkit: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", toolkit.name)]


class Nvcc:
    """The CUDA toolkit's compiler, called through PyCUDA."""

    def __init__(self, path: str) -> None:
        self._path = path
        done = subprocess.run([path, "--version"], capture_output=True, text=True)
        release = re.search(r"\bV(\d[\d.]*)", done.stdout)
        if done.returncode or not release:
            raise BackendError(
                f"{path} --version printed {done.stdout or done.stderr}", "reinstall CUDA"
            )
        self.name = f"nvcc {release[1]}"

    def compile(self, text: str, source: Path, arch: str) -> bytes:
        """Compile `text`, the contents of `source`, for an arch such as sm_87.

        Returns the cubin. Raises `BackendError` with the log.
        """
        pycuda: Any = require("pycuda.compiler")
        options = list(OPTIONS)
        try:
            # We have our own cache: PyCUDA's does not detect damaged files.
            cubin: bytes = pycuda.compile(
                text, self._path, options, no_extern_c=True, arch=arch, cache_dir=False
            )
        except (
            Exception
        ) as error:  # CompileError is in pycuda.driver, which only edge.gpu.device knows
            log = getattr(error, "stderr", None) or str(error)
            raise _compile_error(self.name, source, arch, log) from error
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
        """Compile `text`, the contents of `source`, for an arch such as sm_87.

        Returns the cubin. Raises `BackendError` with the log.
        """
        program = ctypes.c_void_p()
        name = source.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), name, 0, None, None)
        try:
            options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}")]
            array = (ctypes.c_char_p * len(options))(*options)
            if self._library.nvrtcCompileProgram(program, len(options), array):
                log = self._output("nvrtcGetProgramLog", program).decode(errors="replace")
                raise _compile_error(self.name, source, arch, log.rstrip("\0"))
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
            raise BackendError(f"{name} failed: {words}", "reinstall nvidia-cuda-nvrtc")


def _load_nvrtc() -> ctypes.CDLL:
    folders = [Path(entry).absolute() for entry in sys.path if entry]
    found = [path for folder in folders for path in folder.glob("nvidia/*/lib/libnvrtc.so.*")]
    # The newest version supports the most GPUs.
    newest = sorted(found, key=lambda path: path.suffix.zfill(4), reverse=True)
    system = [Path(f"libnvrtc.so.{major}") for major in (13, 12)]
    for path in (*newest, *system, Path("/usr/local/cuda/lib64/libnvrtc.so")):
        try:
            # NVRTC opens its builtins library by its bare name, which works once it is loaded.
            if path.is_absolute():
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise MissingPackage(
        "no compiler for CUDA kernels: neither nvcc with PyCUDA nor NVRTC is installed",
        "run in the vit-edge folder: .venv/bin/pip install -c constraints.txt nvidia-cuda-nvrtc",
    )


def _compile_error(compiler: str, source: Path, arch: str, log: str) -> BackendError:
    return BackendError(
        f"{compiler} cannot compile {source} for {arch}: {log.strip()}",
        "install a CUDA version that supports this GPU; if it does, please report it as a bug",
    )


def _cache() -> Path:
    """The folder of compiled kernels; one that cannot be written for a user without a home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(os.devnull)
    return base / "vit-edge/kernels"


def _read(path: Path) -> bytes | None:
    """A cached cubin; None if there is none, or it does not match the SHA-256 in front of it."""
    try:
        data = read_bytes(path)
    except OSError:
        return None
    cubin = data[_DIGEST:]
    return cubin if hashlib.sha256(cubin).digest() == data[:_DIGEST] else None


def _print_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _main() -> int:
    sources = sorted(Path(__file__).parents[1].rglob("*.cu"))
    try:
        for capability in sys.argv[1:] or ["8.7"]:
            for source in sources:
                kernel_image(source, capability, _print_line)
    except EdgeError as error:
        _print_line(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
