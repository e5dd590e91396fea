import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import MissingPackage, require
from edge.gpu import nvidia
from edge.sources import gst
from edge.sources.gst import detect_platform, gstreamer, parse_pipeline
from tests.conftest import descriptors


def test_missing_typelib(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gi:
        @staticmethod
        def require_version(name: str, _version: str) -> None:
            raise ValueError(f"Namespace {name} not available")

    monkeypatch.setattr(gst, "require", lambda _: Gi)
    with pytest.raises(MissingPackage, match=r"sudo apt install gir1.2-gst"):
        gst._initialised.__wrapped__()


def test_exceptions_of_cpp_libraries_survive_gstreamer() -> None:
    """GStreamer's libunwind must not catch what onnxruntime throws: that aborts the process."""
    code = """
from edge.sources.gst import gstreamer
gstreamer()
import onnxruntime
try:
    onnxruntime.InferenceSession(b"no model")
except Exception as error:
    print("raised", type(error).__name__)
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["raised"])


def in_a_process_of_its_own(code: str) -> list[str]:
    """What it prints, in words."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_many_threads_share_two_heaps(tmp_path: Path) -> None:
    code = f"""
import ctypes, threading
from edge.sources.gst import gstreamer
gstreamer()
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
barrier = threading.Barrier(20)
def allocate():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(b"{tmp_path}/heaps", b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(open("{tmp_path}/heaps").read().count("<heap nr="))
"""
    assert in_a_process_of_its_own(code) == ["2"]


@pytest.mark.parametrize(
    "text", ["videotestsrc ! no-such-element ! fakesink", "videotestsrc ! audioconvert ! fakesink"]
)
def test_nothing_is_left_of_a_pipeline_that_cannot_be_made(text: str) -> None:
    """What of it could be made is freed; two file descriptors are a bus's."""
    before = descriptors()
    for _ in range(10):
        with pytest.raises(require("gi.repository.GLib").Error):
            parse_pipeline(text)
    assert descriptors() < before + 10


def test_a_c_library_without_such_functions_is_left_alone() -> None:
    gst._glibc("no_such_function", 1)


def test_detect_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_PLATFORM", raising=False)
    monkeypatch.setattr(nvidia, "l4t_version", lambda: "R36.4.3")
    assert detect_platform() == "jetson"
    monkeypatch.setattr(nvidia, "l4t_version", lambda: None)
    assert detect_platform() == "pc"
    monkeypatch.setattr(gstreamer().ElementFactory, "find", lambda name: name == "nvvidconv")
    assert detect_platform() == "jetson"
    monkeypatch.setenv("EDGE_PLATFORM", "pc")
    assert detect_platform() == "pc"
