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
|   |-- AccessError                  a camera that refuses the user name or password
|   `-- SilenceError                 a source that is there and sends no frame
|-- ImageError       (ValueError)    a picture that cannot be decoded
|-- ConfigError      (ValueError)    a configuration file that cannot be read, or is wrong
|-- OptionError      (ValueError)    an option whose value cannot be understood
|-- StorageError     (OSError)       a file that cannot be written
|-- AddressError     (OSError)       an address that cannot be used, or cannot be listened at
`-- MissingPackage   (ImportError)   an optional package that this command needs
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "AccessError",
    "AddressError",
    "BackendError",
    "CalibrationError",
    "CheckpointError",
    "CompileError",
    "ConfigError",
    "EdgeError",
    "EngineError",
    "GateError",
    "GraphError",
    "ImageError",
    "MissingPackage",
    "OptionError",
    "SilenceError",
    "SourceError",
    "StorageError",
    "install_hint",
    "printable",
    "reason",
    "require",
]


class EdgeError(Exception):
    """What is wrong (`problem`), and what the reader types or changes next (`hint`)."""

    def __init__(self, problem: str, hint: str):
        super().__init__(problem, hint)
        self.problem = printable(" ".join(problem.split()))
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}"


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


class AccessError(SourceError):
    """A camera that refuses the user name or password."""


class SilenceError(SourceError):
    """A source that is there and sends no frame."""


class ImageError(EdgeError, ValueError):
    """A picture that cannot be decoded."""


class OptionError(EdgeError, ValueError):
    """An option whose value cannot be understood."""


class ConfigError(EdgeError, ValueError):
    """A configuration file that cannot be read, or is wrong."""


class StorageError(EdgeError, OSError):
    """A file that cannot be written."""


class AddressError(EdgeError, OSError):
    """An address that cannot be used, such as a broker's, or that cannot be listened at."""


class MissingPackage(EdgeError, ImportError):
    """An optional package that this command needs."""


# The extra of pyproject.toml that brings a package.
_EXTRAS = {
    "torch": "build",
    "transformers": "build",
    "huggingface_hub": "build",
    "safetensors": "build",
    "sentencepiece": "build",
    "onnxsim": "build",
    "jinja2": "build",
    "matplotlib": "build",
    "onnx": "device",
    "onnxruntime": "device",
    "cv2": "demo",
    "pycuda": "cuda",
    "cuda": "cuda",
    "paho": "service",
    "prometheus_client": "service",
    "tensorrt_rtx_libs": "rtx",
    "tensorrt_rtx_bindings": "rtx",
}
# What lies in a folder of its own: see edge.builder.timm_library.
_APART = {"timm": "--no-deps --target .venv/timm timm torchvision"}
# What comes from the system, since it belongs to the system's Python.
_SYSTEM = {
    "gi": "sudo apt install python3-gi python3-gst-1.0, then make setup",
    "tensorrt": "sudo apt install python3-libnvinfer (JetPack), then make setup",
}


def install_hint(package: str) -> str:
    """The command that installs an optional package."""
    if package in _SYSTEM:
        return _SYSTEM[package]
    wanted = f"'.[{_EXTRAS[package]}]'" if package in _EXTRAS else _APART.get(package, package)
    return f"in the vit-edge folder: .venv/bin/pip install -c constraints.txt {wanted}"


def printable(text: str) -> str:
    """`text` on one line and without control characters: labels may come from anywhere."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def reason(error: Exception) -> str:
    """What an error of another library says, as a part of a line: its first line, or its name."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def require(name: str) -> ModuleType:
    """Import an optional package, or raise `MissingPackage` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # A native module that Ctrl-C interrupts while it is loaded says that it cannot be.
        if _interrupted(error):
            raise KeyboardInterrupt from error
        command = install_hint(name.partition(".")[0])
        raise MissingPackage(f"{name} cannot be imported ({error})", f"run {command}") from error


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an error came from, however far back."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
