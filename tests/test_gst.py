import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge import gst, nvidia
from edge.errors import MissingPackage
from edge.gst import detect_platform, gstreamer


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
from edge.gst import gstreamer
gstreamer()
import onnxruntime
try:
    onnxruntime.InferenceSession(b"no model")
except Exception as error:
    print("raised", type(error).__name__)
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["raised"])


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
