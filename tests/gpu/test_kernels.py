"""Kernel compilation: the real NVRTC from PyPI, and a script that answers for nvcc to PyCUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import BackendError, MissingPackage
from edge.gpu import kernels
from edge.gpu.kernels import Nvrtc, kernel_image
from tests.cuda_driver.standin import emulated

SOURCE = """
extern "C" __global__ void twice(float *x, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = 2.0f * x[i] + 1.0f;
}
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A kernel, an empty cache, and no compiler but NVRTC."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels.shutil, "which", lambda *args, **options: None)
    path = tmp_path / "twice.cu"
    path.write_text(SOURCE)
    return path


def kept(tmp_path):
    return sorted((tmp_path / "cache/vit-edge/kernels").iterdir())


@pytest.mark.parametrize("capability", ["7.5", "8.7", "9.0", "11.0", "12.0"])
def test_nvrtc_compiles_for_each_capability(source, capability):
    said = []
    cubin = kernel_image(source, capability, said.append)
    assert cubin.startswith(b"\x7fELF")
    assert b"twice" in cubin
    assert said == [f"compiling twice.cu for sm_{capability.replace('.', '')} with {Nvrtc().name}"]


def test_a_cubin_is_cached_by_source_options_gpu_and_compiler(source, tmp_path, monkeypatch):
    said = []
    first = kernel_image(source, "8.7", said.append)
    assert kernel_image(source, "8.7", said.append) == first
    assert len(said) == len(kept(tmp_path)) == 1
    source.write_text(SOURCE.replace("2.0f", "3.0f"))
    assert kernel_image(source, "8.7", said.append) != first
    kernel_image(source, "9.0", said.append)
    monkeypatch.setattr(kernels, "OPTIONS", ("--std=c++17",))
    kernel_image(source, "8.7", said.append)
    assert len(said) == len(kept(tmp_path)) == 4


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_cubin_is_compiled_again(source, tmp_path, damage):
    said = []
    first = kernel_image(source, "8.7", said.append)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?" if damage is None else damage)
    assert kernel_image(source, "8.7", said.append) == first
    assert len(said) == 2
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_reported_and_not_an_error(source, tmp_path):
    (tmp_path / "cache").write_text("a file")
    said = []
    assert kernel_image(source, "8.7", said.append).startswith(b"\x7fELF")
    assert said[-1].startswith("twice.cu will be compiled at each start: cannot write")


def test_a_compile_error_shows_the_log(source, tmp_path):
    source.write_text(SOURCE.replace("float *x", "flaot *x"))
    with pytest.raises(BackendError, match=r"NVRTC \d+\.\d.*twice\.cu.*for sm_87:.*flaot") as error:
        kernel_image(source, "8.7")
    assert "report it" in error.value.hint
    assert not (tmp_path / "cache").exists()


def test_a_gpu_that_the_compiler_does_not_support_is_an_error(source):
    with pytest.raises(BackendError, match=r"for sm_11: .*--gpu-architecture") as error:
        kernel_image(source, "1.1")
    assert "CUDA version that supports this GPU" in error.value.hint
    with pytest.raises(BackendError, match="'x' is not a compute capability"):
        kernel_image(source, "x")


def test_a_missing_compiler_is_an_error(source, monkeypatch):
    def nothing(name):
        raise OSError(name)

    monkeypatch.setattr(kernels.ctypes, "CDLL", nothing)
    with pytest.raises(MissingPackage, match="no compiler for CUDA kernels") as error:
        kernel_image(source, "8.7")
    assert "nvidia-cuda-nvrtc" in error.value.hint


NVCC = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/called"
case "$*" in
    *--version*) echo "Cuda compilation tools, release 12.6, V12.6.68" ;;
    *) for source; do :; done
       if grep -q flaot "$source"; then echo "identifier flaot is undefined" >&2; exit 2; fi
       cat "$source" > "${source%.cu}.cubin" ;;
esac
"""


def path_with_nvcc(folder: Path) -> str:
    (folder / "nvcc").write_text(NVCC)
    (folder / "nvcc").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@emulated
def test_nvcc_through_pycuda_is_preferred(driver, tmp_path):
    folder = Path(tmp_path)
    os.environ.update(XDG_CACHE_HOME=tmp_path, PATH=path_with_nvcc(folder))
    source, said = folder / "twice.cu", []
    source.write_text(SOURCE)
    assert kernel_image(source, "8.7", said.append) == SOURCE.encode()
    assert said == ["compiling twice.cu for sm_87 with nvcc 12.6.68"]
    calls = (folder / "called").read_text().splitlines()
    assert "--cubin --std=c++17 --fmad=false -arch sm_87" in calls[-1]
    source.write_text(SOURCE.replace("float *x", "flaot *x"))
    with pytest.raises(BackendError, match=r"nvcc 12.6.68 .*identifier flaot is undefined;"):
        kernel_image(source, "8.7")


def test_the_command_compiles_all_kernels_of_the_package(tmp_path):
    command = [sys.executable, "-m", "edge.gpu.kernels", "8.7", "12.0"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    sources = list(Path(kernels.__file__).parents[1].rglob("*.cu"))
    assert sources
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 2 * len(sources)


@pytest.mark.parametrize("place", ["home", "path", "cuda", "cuda-13.1", "cuda-9.2"])
def test_nvcc_is_searched_in_cuda_home_then_path_then_the_newest_toolkit(
    place, tmp_path, monkeypatch
):
    places = {"home": "home/bin", "path": "path"}
    places |= {name: f"local/{name}/bin" for name in ("cuda", "cuda-13.1", "cuda-9.2")}
    later = list(places)[list(places).index(place) :]
    for name in later:
        nvcc = tmp_path / places[name] / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.touch(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert kernels.find_nvcc(tmp_path / "local") == str(tmp_path / places[place] / "nvcc")


def test_without_a_toolkit_there_is_no_nvcc(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels.find_nvcc(tmp_path) is None


def test_without_a_home_a_kernel_is_compiled_at_each_start(source, monkeypatch):
    def home():
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    said = []
    assert kernel_image(source, "8.7", said.append)
    assert "twice.cu will be compiled at each start" in said[1]
