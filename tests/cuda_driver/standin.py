"""The stand-in CUDA driver for tests: how it is built, and how a test runs on it.

    @emulated
    def test_what_a_gpu_does(driver):
        with closing(Device()) as device: ...

runs in a process of its own that finds the stand-in as `libcuda.so.1`, with the real PyCUDA on top;
the process of the tests never sees a GPU. When the function returns, nothing may be left on the
stand-in and nothing may have been done wrong.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"

# Results that tests ask for (CUresult of cuda.h), and whether they break the context.
OUT_OF_MEMORY, DEVICE_LOST, NOT_SUPPORTED = 2, 46, 801
ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719


class Driver:
    """The stand-in, as a test inside its process speaks to it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.standin_report.restype = ctypes.c_char_p
        self._callbacks: list[Any] = []
        self.errors: list[BaseException] = []

    def report(self) -> dict[str, Any]:
        """calls, alive, leaked, notes, bytes, retained, current and sticky: see standin.h."""
        return dict(json.loads(self._library.standin_report()))

    def calls(self, name: str) -> int:
        return int(self.report()["calls"].get(name, 0))

    def fail(
        self, call: str, code: int, nth: int = 1, times: int = 1, sticky: bool = False
    ) -> None:
        """The nth `call` from now on, and times - 1 after it, return `code`."""
        self._library.standin_fail(call.encode(), nth, times, code, int(sticky))

    def host_function(self, stream: int, function: Callable[[], None]) -> None:
        """Queue `function` on a stream: what stands in for an engine's enqueue, or a slow kernel.

        It runs when the stream is waited for, and may touch memory but not call CUDA. What it
        raises fails the test.
        """

        def call(_: int | None) -> None:
            try:
                function()
            except BaseException as error:
                self.errors.append(error)

        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(call)
        self._callbacks.append(callback)
        code = self._library.cuLaunchHostFunc(ctypes.c_void_p(stream), callback, None)
        assert code == 0, f"cuLaunchHostFunc: {code}"

    def allocate(self, size: int) -> int:
        """Device memory that a library takes for itself; the context is current."""
        address = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        assert code == 0, f"cuMemAlloc: {code}"
        return address.value

    def free(self, address: int) -> None:
        code = self._library.cuMemFree_v2(ctypes.c_uint64(address))
        assert code == 0, f"cuMemFree: {code}"

    def image(self, source: Path) -> bytes:
        """What `Device.load` takes here: a .cu compiled for the CPU."""
        return os.fsencode(compile_kernels(source))

    def peek(self, address: int, size: int) -> bytes:
        """The bytes of device memory now, whatever is pending."""
        return ctypes.string_at(address, size)

    def check(self) -> None:
        """Nothing is left, nothing was done wrong."""
        if self.errors:
            raise self.errors[0]
        report = self.report()
        for name in ("alive", "leaked", "notes"):
            assert not report[name], f"{name}: {report[name]}"
        assert report["retained"] == 0, "the primary context was not released"
        assert report["current"] == 0, "a context is still current on this thread"


def pycuda_folder() -> Path:
    """What scripts/build_pycuda.sh made for this Python. Fails the test when it did not."""
    if (os.uname().sysname, os.uname().machine) != ("Linux", "x86_64"):
        pytest.skip("PyCUDA is built for the stand-in driver on x86-64 Linux")
    pins = (ROOT / "constraints.txt").read_text()
    version = re.findall(r"^pycuda==(\S+)", pins, re.MULTILINE)[0]
    folder = BUILD / f"pycuda-{version}-{sys.implementation.cache_tag}"
    if not (folder / ".ready").exists():
        pytest.fail("there is no PyCUDA to test with: run scripts/build_pycuda.sh")
    return folder


def _made(name: str, sources: list[Path], commands: Callable[[Path], None]) -> Path:
    """build/NAME-<hash of sources>, made by `commands` in a scratch folder unless it is there."""
    text = b"".join(path.read_bytes() for path in sources)
    folder = BUILD / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    if not folder.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=BUILD))
        commands(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another worker was quicker
            shutil.rmtree(scratch)
    return folder


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def driver_folder() -> Path:
    """The folder with libcuda.so.1. What PyCUDA links and nobody calls returns NOT_SUPPORTED."""
    pycuda = pycuda_folder()
    sources = [HERE / name for name in ("driver.cpp", "state.cpp", "state.hpp", "standin.h")]
    extension = next((pycuda / "pycuda").glob("_driver*.so"))

    def names(kind: str, library: Path) -> set[str]:
        return set(re.findall(r"\b(cu[A-Z]\w*)$", _run("nm", "-D", kind, library), re.MULTILINE))

    def make(folder: Path) -> None:
        library = folder / "libcuda.so.1"
        command = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-Wall", "-Werror"]
        command += [f"-I{pycuda / 'include'}", *map(str, sources[:2]), "-o", str(library)]
        _run(*command, "-ldl")
        unused = names("--undefined-only", extension) - names("--defined-only", library)
        stubs = folder / "unused.cpp"
        stubs.write_text(
            'extern "C" int standin_unused(const char *);\n'
            + "".join(
                f'extern "C" int {name}() {{ return standin_unused("{name}"); }}\n'
                for name in sorted(unused)
            )
        )
        _run(*command, stubs, "-ldl")

    return _made("cuda-driver", [*sources, extension, Path(__file__)], make)


def compile_kernels(source: Path) -> Path:
    """A shared library of the kernels of a .cu, for the CPU: what a module's image is here."""
    source = source.resolve()
    parts = [source, HERE / "cuda_on_host.h", HERE / "standin.h", Path(__file__)]

    def make(folder: Path) -> None:
        kernels = re.findall(
            r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)", source.read_text()
        )
        lines = [f'#include "{source}"', *(f"HOST_KERNEL({name})" for name in kernels)]
        (folder / "kernels.cpp").write_text("\n".join(lines) + "\n")
        # Without contraction to fused multiply-adds, as edge.gpu.kernels compiles for the GPU.
        flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC"]
        flags += ["-shared", f"-I{HERE}", "-include", "cuda_on_host.h"]
        _run("g++", *flags, folder / "kernels.cpp", "-o", folder / "kernels.so")

    return _made(f"kernels-{source.stem}", parts, make) / "kernels.so"


def environment(
    memory: int | None = None, capability: str | None = None, tensorrt: bool = False
) -> dict[str, str]:
    """What a process needs to find PyCUDA and the stand-in: bytes of GPU memory, its capability.

    tensorrt: it finds `emulated_compiler` as the package `tensorrt`, too.
    """
    paths = [str(ROOT), str(pycuda_folder()), os.environ.get("PYTHONPATH", "")]
    if tensorrt:
        paths.insert(0, str(HERE / "site"))
    found = {
        **os.environ,
        "LD_LIBRARY_PATH": str(driver_folder()),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if memory is not None:
        found["STANDIN_MEMORY"] = str(memory)
    if capability is not None:
        found["STANDIN_COMPUTE_CAPABILITY"] = capability
    return found


def run(
    function: Callable[..., None],
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `function(driver, **arguments)` of a test module on the stand-in, in a new process.

    It fails (returncode 1, why on stderr) when the function does or when the stand-in has something
    against it. settings: see `environment`. arguments: what JSON can carry; paths become str.
    """
    path = inspect.getsourcefile(function)
    words = [path, function.__name__, json.dumps(arguments or {}, default=str)]
    command = [sys.executable, "-m", "tests.cuda_driver.standin", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=120
    )


def emulated(function: Callable[..., None] | None = None, **settings: Any) -> Any:
    """A test that runs on the stand-in driver: its first parameter is the `Driver`.

    The others come from pytest as ever, as long as JSON can carry them; paths become str.
    """
    if function is None:
        return functools.partial(emulated, **settings)

    def test(**arguments: Any) -> None:
        done = run(function, arguments, **settings)
        if done.returncode:
            pytest.fail(f"on the stand-in driver: {done.returncode}\n{done.stdout}{done.stderr}")

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    parameters = list(inspect.signature(function).parameters.values())[1:]
    test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    test.inside = function  # type: ignore[attr-defined]
    return test


def _inside(path: str, name: str, arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("test_on_the_standin", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name)
    driver = Driver()
    try:
        getattr(function, "inside", function)(driver, **json.loads(arguments))
        driver.check()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = _inside(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # No clean-up of what a failing test left: PyCUDA would abort on a context that is current.
    os._exit(status)
