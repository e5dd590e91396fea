"""Error classes: each error has a problem, with the file or source, and a hint.

EdgeError
|-- CheckpointError  (ValueError)    a checkpoint that is missing, corrupt, unsafe or unsupported
|-- GraphError       (ValueError)    an ONNX graph that is corrupt or breaks a rule
|-- CalibrationError (ValueError)    images that cannot calibrate or evaluate an engine
|-- CompileError     (RuntimeError)  TensorRT refused a graph
|-- GateError        (RuntimeError)  an engine whose accuracy is below the gate
|-- EngineError      (ValueError)    a missing or damaged engine, or one for another machine
|-- BackendError     (RuntimeError)  a native call of TensorRT, CUDA or onnxruntime failed
|-- SourceError      (OSError)       a camera, file or stream that cannot be opened or read
|   |-- AccessError                  a camera that refuses the user name or password
|   `-- SilenceError                 a source that is connected and sends no frame
|-- ImageError       (ValueError)    an image that cannot be decoded
|-- ConfigError      (ValueError)    an unreadable or invalid configuration file
|-- OptionError      (ValueError)    an option with an invalid value
|-- StorageError     (OSError)       a file that cannot be written
|-- AddressError     (OSError)       an address that cannot be used or listened on
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
    """An error for people: what is wrong (`problem`), and what to type or change (`hint`)."""

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
    """Images that cannot calibrate or evaluate an engine."""


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
    """A source that is connected and sends no frame."""


class ImageError(EdgeError, ValueError):
    """An image that cannot be decoded."""


class OptionError(EdgeError, ValueError):
    """An option with an invalid value."""


class ConfigError(EdgeError, ValueError):
    """A configuration file that cannot be read or is invalid."""


class StorageError(EdgeError, OSError):
    """A file that cannot be written."""


class AddressError(EdgeError, OSError):
    """An address, such as that of a broker, that cannot be used or listened on."""


class MissingPackage(EdgeError, ImportError):
    """An optional package that this command needs."""


# The extra of pyproject.toml that installs a package.
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
    "pillow_heif": "heic",
    "pycuda": "cuda",
    "cuda": "cuda",
    "paho": "service",
    "prometheus_client": "service",
    "tensorrt_rtx_libs": "rtx",
    "tensorrt_rtx_bindings": "rtx",
}
# Packages that are installed into a separate folder: see edge.builder.models.timm_library.
_SEPARATE = {"timm": "--no-deps --target .venv/timm timm torchvision"}
# Packages of the system's Python.
_SYSTEM = {
    "gi": "sudo apt install python3-gi python3-gst-1.0, then make setup",
    "tensorrt": "sudo apt install python3-libnvinfer (JetPack), then make setup",
}


def install_hint(package: str) -> str:
    """The command that installs an optional package."""
    if package in _SYSTEM:
        return _SYSTEM[package]
    target = f"'.[{_EXTRAS[package]}]'" if package in _EXTRAS else _SEPARATE.get(package, package)
    return f"in the vit-edge folder: .venv/bin/pip install -c constraints.txt {target}"


def printable(text: str) -> str:
    """`text` on one line and without control characters, which a label or a reply may contain."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def reason(error: Exception) -> str:
    """The first line of another library's message, or the name of the exception, for a message."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def require(name: str) -> ModuleType:
    """Import an optional package, or raise `MissingPackage` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # A native module raises ImportError if Ctrl-C interrupts its import.
        if _interrupted(error):
            raise KeyboardInterrupt from error
        command = install_hint(name.partition(".")[0])
        raise MissingPackage(f"{name} cannot be imported ({error})", f"run {command}") from error


def _interrupted(error: BaseException | None) -> bool:
    """Whether KeyboardInterrupt is in the chain of causes of an error."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
