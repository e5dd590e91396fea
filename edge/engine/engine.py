"""`Engine`: an opened engine, executed by a backend that works on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edge.engine.backends import check_plan, choose
from edge.engine.cpu_path import CpuPath, CpuSlot
from edge.engine.heads import FEATURES
from edge.engine.onnxruntime import OnnxRuntime
from edge.engine.passport import Passport, PlanAccuracy
from edge.errors import EngineError
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.images import ImageInput, as_pixels
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.sources.frame import Frame

if TYPE_CHECKING:
    from edge.engine.gpu_path import GpuPath, GpuSlot
    from edge.engine.runner import Runner
    from edge.gpu.device import Device

__all__ = ["Backend", "Engine", "Prediction"]

Tensor = npt.NDArray[np.float32]


class Backend(Protocol):
    """The interface of what executes an engine."""

    @property
    def name(self) -> str: ...

    def infer(self, batch: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] -> outputs float32 [N, classes or channels]."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class _ClosedBackend:
    """The backend of a closed engine: every use of it is an error."""

    name: str
    engine: str

    def infer(self, batch: Tensor) -> Tensor:
        raise EngineError(f"the engine {self.engine} is closed", "use it inside its `with` block")

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Prediction:
    """The probabilities of one image, float32 [classes], and the names of the classes."""

    probabilities: Tensor
    class_names: tuple[str, ...]

    @property
    def class_id(self) -> int:
        """The index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.class_names[self.class_id]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class, 0 to 1."""
        return float(self.probabilities[self.class_id])

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes as (class_id, label, confidence), best first.

        Raises ValueError if k is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}, and must be at least 1")
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(i), self.class_names[i], float(self.probabilities[i])) for i in order]


class Engine:
    """An open engine. It owns its backend: close it, or use it in a `with` block."""

    def __init__(
        self,
        passport: Passport,
        backend: Backend,
        reason: str,
        info: Callable[[str], None] = lambda text: None,
    ):
        """info: called with a text, once for each thing that is slower here than it could be."""
        self._info = info
        self.passport = passport
        self.reason = reason  # why this backend was chosen; the caller of `open` reports it
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

        threads: CPU threads of the onnxruntime backend; all by default. info: called with a text,
        once for each thing that is slower here than it could be. Raises `EngineError` if the
        engine is damaged or was compiled for another machine.
        """
        return Engine.opened(Path(folder), Passport.read(Path(folder)), backend, threads, info)

    @staticmethod
    def opened(
        folder: Path,
        passport: Passport,
        backend: str = "auto",
        threads: int | None = None,
        info: Callable[[str], None] = lambda text: None,
    ) -> Engine:
        """As `open`, with a passport in place of the folder's."""
        name, reason = choose(folder, passport, backend)
        if name == "onnxruntime":
            graph = passport.check_file(folder, "model.onnx")
            return Engine(
                passport, OnnxRuntime(graph, threads, fp8=passport.precision == "fp8"), reason
            )
        if name == "onnxruntime-cuda":
            from edge.engine.onnxruntime_cuda import OrtCuda

            graph = passport.check_file(folder, "model.onnx")
            return Engine(passport, OrtCuda(graph, passport), reason, info)
        from edge.engine.tensorrt import TensorRT

        check_plan(folder, passport, name)
        plan = passport.check_file(folder, "model.plan")
        return Engine(passport, TensorRT(name, plan, passport), reason, info)

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._backend.name

    @property
    def frame_path(self) -> str:
        """How a frame reaches the network, as text for people."""
        if self.device is not None:
            return "GPU preprocessing, directly from the frame's memory"
        return f"system memory, CPU preprocessing ({self.preprocess.resizer})"

    @property
    def plan_accuracy(self) -> PlanAccuracy | None:
        """The accuracy of the plan on the witnesses; None if no plan runs or it was not judged."""
        plan = self.passport.plan
        runs = plan is not None and plan.backend == self.backend
        return self.passport.plan_accuracy if runs else None

    @property
    def device(self) -> Device | None:
        """The GPU that runs the engine; frames may lie in its memory. None on the CPU."""
        return getattr(self._backend, "device", None)

    def infer(self, batch: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] -> logits or embeddings, float32 [N, outputs].

        Raises `EngineError` if the graph returns anything else, `BackendError` if it fails.
        """
        found = self._backend.infer(batch)
        shape, expected = np.shape(found), (len(batch), self.passport.outputs)
        if shape != expected or found.dtype != np.float32:
            raise EngineError(
                f"the graph of {self.passport.name} returns {list(shape)} numbers for "
                f"{len(batch)} images, its passport says {list(expected)}",
                "build the engine again: edge build CHECKPOINT",
            )
        return found

    @property
    def depth(self) -> int:
        """How many batches may be in flight at once."""
        return self._frames().depth

    @property
    def batch(self) -> int:
        """The most frames that are worth inferring as one batch."""
        return self._frames().batch

    def slot(self) -> CpuSlot | GpuSlot:
        """A new slot: memory for one frame; see `edge.run.loop`. Raises `BackendError`."""
        return self._frames().slot()

    def warm(self) -> None:
        """Infer one frame of each format that is slow the first time, before cameras connect."""
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
        """Start to infer the frames in `slots`, as one batch."""
        self._frames().start(slots)

    def finish(self) -> Tensor:
        """Wait for the oldest batch in flight. Returns its logits, float32 [N, classes]."""
        return self._frames().finish()

    def network_input(self, index: int) -> Tensor:
        """A copy of the network's input for frame `index` of the batch finished last.

        float32 [3, height, width]. Call it before the next batch is started.
        """
        return self._frames().network_input(index)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage of the batch finished last; on a GPU, by its own events."""
        return self._frames().stages_ms

    def _frames(self) -> CpuPath | GpuPath:
        """The path of frames. On a GPU it takes memory, so it is made for the first frame only."""
        if self._path is None:
            if self.device is None:
                self._path = CpuPath(self.preprocess, self.infer, self.input_shape)
            else:
                from edge.engine.gpu_path import GpuPath

                runner = cast("Runner", self._backend)
                self._path = GpuPath(runner, self.passport.preprocess, self._info)
        return self._path

    def predict(self, logits: Tensor) -> Prediction:
        """Logits of one image, float32 [classes] -> its probabilities.

        Raises `EngineError` if their number differs from the number of labels.
        """
        if len(logits) != len(self.passport.labels):
            raise EngineError(
                f"{self.passport.name} has {len(logits)} outputs, but its passport has "
                f"{len(self.passport.labels)} labels",
                "build the engine again: edge build CHECKPOINT",
            )
        return Prediction(self.passport.head.probabilities(logits), self.passport.labels)

    def __call__(self, image: ImageInput) -> Prediction:
        """Classify an image: a path, a PIL image, or RGB uint8 [H, W, 3].

        The order of an array's channels cannot be seen: OpenCV's `imread` returns BGR, so give
        `cv2.imread(path)[..., ::-1]`, or the path.

        Raises `ImageError` for the image, `EngineError` if the engine returns embeddings.
        """
        self.check_labels()
        return self.predict(self._output(image))

    def embed(self, image: ImageInput) -> Tensor:
        """The embedding of an image, float32 [channels]. `__call__` lists the types of image.

        Raises `ImageError` for the image, `EngineError` if the engine returns classes.
        """
        if self.passport.labels:
            raise EngineError(
                f"{self.passport.name} returns classes, not embeddings",
                "use edge classify ENGINE IMAGE, or build one with edge build --task " + FEATURES,
            )
        return self._output(image)

    def check_labels(self) -> None:
        """Raises `EngineError` if the engine returns embeddings instead of classes."""
        if not self.passport.labels:
            raise EngineError(
                f"{self.passport.name} returns embeddings, not classes",
                "use edge embed ENGINE IMAGE, or model.embed(image) in Python",
            )

    def _output(self, image: ImageInput) -> Tensor:
        pixels = as_pixels(image, opaque=self.passport.preprocess.opaque)
        result: Tensor = self.infer(self.preprocess(pixels)[None])[0]
        return result

    def close(self) -> None:
        """Free the backend. Any later use of the engine raises `EngineError`."""
        self._backend.close()
        self._backend, self._path = _ClosedBackend(self.backend, self.passport.name), None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
