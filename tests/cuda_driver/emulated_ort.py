"""onnxruntime's CUDA provider on the stand-in driver: its CPU provider reads the device pointers.

`run_with_iobinding` queues the inference on the session's stream, where it runs when the stream is
waited for, like all work of the stand-in. While the stream is captured it fails: it would allocate.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import onnxruntime
from cuda.bindings import driver as cuda

from tests.cuda_driver.standin import Driver

CUDA = "CUDAExecutionProvider"


class Ort(SimpleNamespace):
    """What `require("onnxruntime")` gives; counts the sessions, bindings and batches.

    providers  what it has; `loads` says whether its CUDA provider finds its libraries
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__(
            __version__=onnxruntime.__version__,
            SessionOptions=onnxruntime.SessionOptions,
            RunOptions=onnxruntime.RunOptions,
            providers=[CUDA, "CPUExecutionProvider"],
            loads=True,
            sessions=[],
            bindings=0,
            queued=[],
            preloaded=0,
            driver=driver,
        )

    def get_available_providers(self) -> list[str]:
        return self.providers

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcudnn.so.9")  # as the real one does, to stdout

    def InferenceSession(self, source: Any, options: Any, providers: Sequence[Any]) -> Any:
        if providers == ["CPUExecutionProvider"]:
            return onnxruntime.InferenceSession(source, options, providers=providers)
        ((name, settings),) = providers
        assert name == CUDA
        self.sessions.append(_Session(self, source, options, int(settings["user_compute_stream"])))
        return self.sessions[-1]


class _Session:
    def __init__(self, ort: Ort, source: Any, options: Any, stream: int) -> None:
        options.intra_op_num_threads = 1
        # A GPU's INT8 products do not saturate: nor may those of a CPU that stands for it.
        options.add_session_config_entry("session.x64quantprecision", "1")
        real = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._ort, self._stream, self._real = ort, stream, real
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs

    def get_providers(self) -> list[str]:
        return self._ort.providers if self._ort.loads else ["CPUExecutionProvider"]

    def io_binding(self) -> _Binding:
        self._ort.bindings += 1
        return _Binding(self._real.io_binding())

    def run_with_iobinding(self, binding: _Binding, options: Any) -> None:
        key = "disable_synchronize_execution_providers"
        assert options.get_run_config_entry(key) == "1"
        code, status = cuda.cuStreamIsCapturing(self._stream)
        assert not code
        if status != cuda.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
            raise RuntimeError("operation not permitted when stream is capturing")
        if "fail" in self._ort.__dict__:
            raise RuntimeError(self._ort.fail)
        run, real = self._real.run_with_iobinding, binding.real
        self._ort.queued.append(binding.shape[0])
        self._ort.driver.host_function(self._stream, lambda: run(real))


class _Binding:
    def __init__(self, real: Any) -> None:
        self.real = real
        self.shape: tuple[int, ...] = ()

    def bind_input(self, name: str, device: str, number: int, kind: Any, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        self.shape = where[0]
        self.real.bind_input(name, "cpu", 0, kind, *where)

    def bind_output(self, name: str, device: str, number: int, kind: Any, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0, kind, *where)
