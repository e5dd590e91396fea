"""Open an engine: its passport first, then the backend that can run it here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edge import nvidia
from edge.errors import EdgeError, EngineError
from edge.heads import FEATURES
from edge.passport import Passport
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.pictures import Picture, as_pixels
from edge.preprocess.surface import FORMATS, Layout, Surface
from edge.run.cpu import CpuPath, CpuPlace
from edge.run.frames import Frame
from edge.run.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from edge.cuda import Device
    from edge.run.gpu import GpuPath, GpuPlace
    from edge.runner import Runner

__all__ = ["BACKENDS", "Backend", "Engine", "Prediction"]

BACKENDS = ("onnxruntime", "onnxruntime-cuda", *nvidia.BACKENDS)

Tensor = npt.NDArray[np.float32]


class Backend(Protocol):
    """What executes an engine."""

    @property
    def name(self) -> str: ...

    def infer(self, batch: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] -> outputs float32 [N, classes or channels]."""

    def close(self) -> None: ...


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
        """The k most probable classes: (class_id, label, confidence), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(i), self.class_names[i], float(self.probabilities[i])) for i in order]


class Engine:
    """An open engine. Owns its backend: close it, or use it in a `with`."""

    def __init__(
        self,
        passport: Passport,
        backend: Backend,
        reason: str,
        say: Callable[[str], None] = lambda text: None,
    ):
        """say: is told, once each, of what is slower here than it could be."""
        self._say = say
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
        say: Callable[[str], None] = lambda text: None,
    ) -> Engine:
        """Open the engine in `folder` with `auto` or one of `BACKENDS`.

        threads: CPU threads of the onnxruntime backend, all by default. say: is told, once each, of
        what is slower here than it could be. Raises `EngineError` when the engine is damaged or
        was compiled for another machine.
        """
        folder = Path(folder)
        passport = Passport.read(folder)
        name, reason = _choose(folder, passport, backend)
        if name == "onnxruntime":
            graph = _check_graph(folder, passport)
            return Engine(
                passport, OnnxRuntime(graph, threads, fp8=passport.precision == "fp8"), reason
            )
        if name == "onnxruntime-cuda":
            from edge.ortcuda import OrtCuda

            graph = _check_graph(folder, passport)
            return Engine(passport, OrtCuda(graph, passport), reason, say)
        from edge.trt import TensorRT

        check_plan(folder, passport, name)
        plan = passport.check_file(folder, "model.plan")
        return Engine(passport, TensorRT(name, plan, passport), reason, say)

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

    def place(self) -> CpuPlace | GpuPlace:
        """Room for one frame; see `edge.run.loop`. Raises `BackendError`."""
        return self._frames().place()

    def warm(self) -> None:
        """Do once what takes long the first time, before a camera waits for it."""
        place = self.place()
        for name in ("NV12", "I420", "RGB"):
            planes = (
                np.zeros(FORMATS[name].plane_size(index, 64, 64), np.uint8)
                for index in range(FORMATS[name].planes)
            )
            surface = Surface(Layout(name, 64, 64), tuple(planes))
            place.put(Frame("", 0, None, 0.0, "system", surface))
            self.start([place])
            self.finish()
            place.clear()

    def start(self, places: Sequence[Any]) -> None:
        """Begin to infer the frames in `places`, as one batch."""
        self._frames().start(places)

    def finish(self) -> Tensor:
        """Logits, float32 [N, classes], of the oldest batch that was started."""
        return self._frames().finish()

    def seen(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last.

        float32 [3, height, width]; only until the next batch is started.
        """
        return self._frames().seen(index)

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
                from edge.run.gpu import GpuPath

                runner = cast("Runner", self._backend)
                self._path = GpuPath(runner, self.passport.preprocess, self._say)
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
        self._backend.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _choose(folder: Path, passport: Passport, asked: str) -> tuple[str, str]:
    """The backend, and why."""
    known = ("auto", *BACKENDS)
    if asked not in known:
        raise EngineError(f"there is no backend {asked}", f"choose one of: {', '.join(known)}")
    if asked != "auto":
        return asked, "asked for"
    plan = passport.plan
    if plan is None:
        why, mend = "the engine has no plan", f"make one here: edge compile {folder}"
    elif plan.backend not in nvidia.installed():
        why, mend = f"{plan.backend} is not installed", "see edge doctor"
    elif nvidia.gpu() is None:
        why, mend = "there is no NVIDIA GPU", "see edge doctor"
    else:
        return plan.backend, "the engine has a plan for it"
    if _without_plan() == "onnxruntime-cuda":
        return "onnxruntime-cuda", f"onnxruntime has CUDA, and {why}; {mend}"
    if nvidia.is_jetson():
        raise EngineError(
            f"{folder} would run on the CPU of this Jetson: {why}",
            f"{mend}, or ask for it: --backend onnxruntime",
        )
    return "onnxruntime", why


def _without_plan() -> str:
    """The backend that runs the portable graph here: on the GPU if onnxruntime can."""
    if nvidia.gpu() is not None:
        from edge import ortcuda

        with suppress(EdgeError):
            ortcuda.check()
            return "onnxruntime-cuda"
    return "onnxruntime"


def _check_graph(folder: Path, passport: Passport) -> Path:
    """The portable graph, once it and its weights are found whole. Raises `EngineError`."""
    if "model.onnx.data" in passport.files:
        passport.check_file(folder, "model.onnx.data")
    return passport.check_file(folder, "model.onnx")


def check_plan(folder: Path, passport: Passport, backend: str) -> None:
    """See that the plan was compiled for this TensorRT and GPU. Raises `EngineError`."""
    if backend not in nvidia.installed():
        raise EngineError(
            f"{backend} is not installed on this machine",
            f"use --backend {_without_plan()}, or see edge doctor",
        )
    gpu = nvidia.gpu()
    if gpu is None:
        raise EngineError(
            f"{folder} needs an NVIDIA GPU for {backend}, and this machine has none",
            "use --backend onnxruntime",
        )
    plan, mend = passport.plan, f"compile it here: edge compile {folder} --backend {backend}"
    if plan is None or plan.backend != backend:
        raise EngineError(f"{folder} has no {backend} plan", mend)
    version = str(nvidia.tensorrt(backend).__version__)
    if plan.version != version:
        raise EngineError(
            f"{folder} was compiled with {backend} {plan.version}, this machine has {version}", mend
        )
    if plan.compute_capability not in (None, gpu.compute_capability):
        raise EngineError(
            f"{folder} was compiled for {plan.gpu} (compute capability {plan.compute_capability}), "
            f"this machine has {gpu.name} ({gpu.compute_capability})",
            mend,
        )
    if plan.model_sha256 != passport.files[plan.graph].sha256:
        raise EngineError(f"the plan of {folder} was compiled from another {plan.graph}", mend)
