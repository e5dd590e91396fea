"""Open an engine: its passport first, then the backend that can run it here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edge.engine.backends import check_graph, check_plan, choose
from edge.engine.cpu_path import CpuPath, CpuSlot
from edge.engine.heads import FEATURES
from edge.engine.onnxruntime import OnnxRuntime
from edge.engine.passport import Passport
from edge.errors import EngineError
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import Picture, as_pixels
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.sources.frame import Frame

if TYPE_CHECKING:
    from edge.engine.gpu_path import GpuPath, GpuSlot
    from edge.engine.runner import Runner
    from edge.gpu.device import Device

__all__ = ["Backend", "Engine", "Prediction"]

Tensor = npt.NDArray[np.float32]


class Backend(Protocol):
    """What executes an engine."""

    @property
    def name(self) -> str: ...

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] -> outputs float32 [N, classes or channels]."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class _Closed:
    """What executes an engine that was closed: nothing."""

    name: str
    engine: str

    def infer(self, batch: Tensor) -> Tensor:
        raise EngineError(f"the engine {self.engine} is closed", "use it within its `with`")

    def close(self) -> None:
        """It is."""


@dataclass(frozen=True)
class Prediction:
    """The probabilities of one picture, float32 [classes], and their names."""

    probabilities: Tensor
    class_names: tuple[str, ...]

    @property
    def class_id(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        return self.class_names[self.class_id]

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.class_id])

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes: (class_id, label, confidence), best first.

        Raises ValueError for a k below 1.
        """
        if k < 1:
            raise ValueError(f"of the most probable classes there is a first, and no {k}th")
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(i), self.class_names[i], float(self.probabilities[i])) for i in order]


class Engine:
    """An open engine. Owns its backend: close it, or use it in a `with`."""

    def __init__(
        self,
        passport: Passport,
        backend: Backend,
        reason: str,
        info: Callable[[str], None] = lambda text: None,
    ):
        """say: is told, once each, of what is slower here than it could be."""
        self._info = info
        self.passport = passport
        self.reason = reason  # why this backend; said once by whoever opened the engine
        self.preprocess = Preprocessor(passport.preprocess)
        self.input_shape = passport.input_shape
        self._backend = backend
        self._path: CpuPath | GpuPath | None = None

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        backend: str = "auto",
        threads: int | None = None,
        info: Callable[[str], None] = lambda text: None,
    ) -> Engine:
        """Open the engine in `folder` with `auto` or one of `backends.BACKENDS`.

        threads: CPU threads of the onnxruntime backend, all by default. say: is told, once each, of
        what is slower here than it could be. Raises `EngineError` when the engine is damaged or
        was compiled for another machine.
        """
        folder = Path(folder)
        passport = Passport.read(folder)
        name, reason = choose(folder, passport, backend)
        if name == "onnxruntime":
            graph = check_graph(folder, passport)
            return Engine(
                passport, OnnxRuntime(graph, threads, fp8=passport.precision == "fp8"), reason
            )
        if name == "onnxruntime-cuda":
            from edge.engine.onnxruntime_cuda import OrtCuda

            graph = check_graph(folder, passport)
            return Engine(passport, OrtCuda(graph, passport), reason, info)
        from edge.engine.tensorrt import TensorRT

        check_plan(folder, passport, name)
        plan = passport.check_file(folder, "model.plan")
        return Engine(passport, TensorRT(name, plan, passport), reason, info)

    @property
    def backend(self) -> str:
        return self._backend.name

    @property
    def frame_path(self) -> str:
        """How a frame gets to the network, in words."""
        if self.device is not None:
            return "GPU preprocessing, from the memory that a frame lies in"
        engine = "numba" if self.preprocess.compiled else "Pillow; faster with numba"
        return f"system memory, CPU preprocessing ({engine})"

    @property
    def device(self) -> Device | None:
        """The GPU that runs the engine, whose memory frames may lie in; None on the CPU."""
        return getattr(self._backend, "device", None)

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] -> logits or embeddings, float32 [N, outputs]."""
        return self._backend.infer(batch)

    @property
    def depth(self) -> int:
        """How many batches may be under way at once."""
        return self._frames().depth

    @property
    def batch(self) -> int:
        """How many frames it is worth to put into one batch."""
        return self._frames().batch

    def slot(self) -> CpuSlot | GpuSlot:
        """Room for one frame; see `edge.run.loop`. Raises `BackendError`."""
        return self._frames().slot()

    def warm(self) -> None:
        """Do once what takes long the first time, before a camera waits for it."""
        slot = self.slot()
        for name in ("NV12", "I420", "RGB"):
            planes = (
                np.zeros(FORMATS[name].plane_size(index, 64, 64), np.uint8)
                for index in range(FORMATS[name].planes)
            )
            surface = Surface(Layout(name, 64, 64), tuple(planes))
            slot.put(Frame("", 0, None, 0.0, "system", surface))
            self.start([slot])
            self.finish()
            slot.clear()

    def start(self, slots: Sequence[Any]) -> None:
        """Begin to infer the frames in `slots`, as one batch."""
        self._frames().start(slots)

    def finish(self) -> Tensor:
        """Logits, float32 [N, classes], of the oldest batch that was started."""
        return self._frames().finish()

    def network_input(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last.

        float32 [3, height, width]; only until the next batch is started.
        """
        return self._frames().network_input(index)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds within the batch finished last, by stage; on a GPU its own events' time."""
        return self._frames().stages_ms

    def _frames(self) -> CpuPath | GpuPath:
        """The way of frames; on a GPU it takes memory, so that it is made when one comes."""
        if self._path is None:
            if self.device is None:
                self._path = CpuPath(self.preprocess, self.infer, self.input_shape)
            else:
                from edge.engine.gpu_path import GpuPath

                runner = cast("Runner", self._backend)
                self._path = GpuPath(runner, self.passport.preprocess, self._info)
        return self._path

    def predict(self, logits: Tensor) -> Prediction:
        """Logits of one picture, float32 [classes] -> its probabilities.

        Raises `EngineError` when there are not as many as labels.
        """
        if len(logits) != len(self.passport.labels):
            raise EngineError(
                f"{self.passport.name} has {len(logits)} outputs, its passport "
                f"{len(self.passport.labels)} labels",
                "build the engine again: edge build CHECKPOINT",
            )
        return Prediction(self.passport.head.probabilities(logits), self.passport.labels)

    def __call__(self, image: Picture) -> Prediction:
        """Classify a picture: a path, a PIL image, or RGB uint8 [H, W, 3].

        Raises `ImageError`, and `EngineError` for an engine that gives embeddings.
        """
        self.check_labels()
        return self.predict(self._output(image))

    def embed(self, image: Picture) -> Tensor:
        """The embedding of a picture, float32 [channels]; see `__call__` for what it may be.

        Raises `ImageError`, and `EngineError` for an engine that gives classes.
        """
        if self.passport.labels:
            raise EngineError(
                f"{self.passport.name} gives classes, and no embedding",
                "edge classify ENGINE IMAGE, or build one: edge build --task " + FEATURES,
            )
        return self._output(image)

    def check_labels(self) -> None:
        """Raises `EngineError` for an engine that gives embeddings, and no classes."""
        if not self.passport.labels:
            raise EngineError(
                f"{self.passport.name} gives embeddings, and no classes",
                "edge embed ENGINE IMAGE, or model.embed(image) in Python",
            )

    def _output(self, image: Picture) -> Tensor:
        pixels = as_pixels(image, opaque=self.passport.preprocess.opaque)
        result: Tensor = self.infer(self.preprocess(pixels)[None])[0]
        return result

    def close(self) -> None:
        """Free what runs it. To use it afterwards raises `EngineError`."""
        self._backend.close()
        self._backend, self._path = _Closed(self.backend, self.passport.name), None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
