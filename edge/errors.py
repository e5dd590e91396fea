"""Errors for people: what is wrong, with which file or stream, and what to do next.

EdgeError
|-- CheckpointError  (ValueError)    a checkpoint that is missing, corrupt, unsafe or unsupported
|-- GraphError       (ValueError)    an ONNX graph that is corrupt or breaks a rule
|-- CalibrationError (ValueError)    a set of images that cannot calibrate or judge an engine
|-- CompileError     (RuntimeError)  TensorRT refused a graph
|-- GateError        (RuntimeError)  an engine whose accuracy is below the gate
|-- EngineError      (ValueError)    an engine missing, damaged or made for another machine
|-- BackendError     (RuntimeError)  a native call of TensorRT, CUDA or onnxruntime failed
|-- SourceError      (OSError)       a camera, file or stream that cannot be opened or read
|-- ImageError       (ValueError)    a picture that cannot be decoded
|-- StorageError     (OSError)       a file that cannot be written
`-- MissingPackage   (ImportError)   an optional package that this command needs
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "BackendError",
    "CalibrationError",
    "CheckpointError",
    "CompileError",
    "EdgeError",
    "EngineError",
    "GateError",
    "GraphError",
    "ImageError",
    "MissingPackage",
    "SourceError",
    "StorageError",
    "require",
]


class EdgeError(Exception):
    """What is wrong, and the mend: what the reader types or changes next."""

    def __init__(self, what: str, mend: str):
        super().__init__(what, mend)
        self.what = " ".join(what.split())
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


class CheckpointError(EdgeError, ValueError):
    """A checkpoint that is missing, corrupt, unsafe or unsupported."""


class GraphError(EdgeError, ValueError):
    """An ONNX graph that is corrupt or breaks a rule."""


class CalibrationError(EdgeError, ValueError):
    """A set of images that cannot calibrate or judge an engine."""


class CompileError(EdgeError, RuntimeError):
    """TensorRT refused a graph."""


class GateError(EdgeError, RuntimeError):
    """An engine whose accuracy is below the gate."""


class EngineError(EdgeError, ValueError):
    """An engine that is missing, damaged or made for another machine."""


class BackendError(EdgeError, RuntimeError):
    """A native call of TensorRT, CUDA or onnxruntime failed."""


class SourceError(EdgeError, OSError):
    """A camera, file or stream that cannot be opened or read."""


class ImageError(EdgeError, ValueError):
    """A picture that cannot be decoded."""


class StorageError(EdgeError, OSError):
    """A file that cannot be written."""


class MissingPackage(EdgeError, ImportError):
    """An optional package that this command needs."""


_INSTALL = {
    "torch": "pip install 'vit-edge[build]'",
    "transformers": "pip install 'vit-edge[build]'",
    "onnx": "pip install 'vit-edge[build]'",
    "onnxsim": "pip install 'vit-edge[build]'",
    "onnxruntime": "pip install onnxruntime",
    "cv2": "pip install opencv-python-headless (on a Jetson: sudo apt install python3-opencv)",
    "gi": "sudo apt install python3-gi python3-gst-1.0 and make the environment with make setup",
    "pycuda": "pip install 'vit-edge[cuda]' (needs the CUDA toolkit)",
    "tensorrt": "make setup (on a Jetson first: sudo apt install python3-libnvinfer)",
    "tensorrt_rtx_bindings": "pip install 'vit-edge[rtx]'",
}


def require(name: str) -> ModuleType:
    """Import an optional package, or raise `MissingPackage` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        mend = _INSTALL.get(top, f"pip install {top}")
        raise MissingPackage(f"{name} cannot be imported ({error})", f"run: {mend}") from error
