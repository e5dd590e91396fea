"""The choice of a backend for this machine, and the checks that it can run an engine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edge.engine.passport import Passport
from edge.errors import EdgeError, EngineError
from edge.gpu import nvidia

__all__ = ["BACKENDS", "check_plan", "choose"]

BACKENDS = ("onnxruntime", "onnxruntime-cuda", *nvidia.BACKENDS)


def choose(folder: Path, passport: Passport, asked: str) -> tuple[str, str]:
    """The name of the backend and the reason for it. asked: `auto`, or one of `BACKENDS`.

    Raises `EngineError` for an unknown backend. Also on a Jetson where `auto` would choose the CPU,
    since there that is nearly always a mistake.
    """
    known = ("auto", *BACKENDS)
    if asked not in known:
        raise EngineError(f"unknown backend {asked}", f"choose one of: {', '.join(known)}")
    if asked != "auto":
        return asked, "as requested"
    plan = passport.plan
    if plan is None:
        why, hint = "the engine has no plan", f"make one here: edge compile {folder}"
    elif plan.backend not in nvidia.installed():
        why, hint = f"{plan.backend} is not installed", "see edge doctor"
    elif nvidia.gpu() is None:
        why, hint = "there is no NVIDIA GPU", "see edge doctor"
    else:
        return plan.backend, "the engine has a plan for it"
    if _without_plan() == "onnxruntime-cuda":
        return "onnxruntime-cuda", f"onnxruntime supports CUDA, and {why}; {hint}"
    if nvidia.is_jetson():
        raise EngineError(
            f"{folder} would run on the CPU of this Jetson: {why}",
            f"{hint}; to use the CPU anyway: --backend onnxruntime",
        )
    return "onnxruntime", why


def _without_plan() -> str:
    """The backend for the portable graph: on the GPU if onnxruntime supports it here."""
    if nvidia.gpu() is not None:
        from edge.engine import onnxruntime_cuda

        with suppress(EdgeError):
            onnxruntime_cuda.check()
            return "onnxruntime-cuda"
    return "onnxruntime"


def check_plan(folder: Path, passport: Passport, backend: str) -> None:
    """Raises `EngineError` unless the plan was compiled for this TensorRT version and this GPU."""
    if backend not in nvidia.installed():
        raise EngineError(
            f"{backend} is not installed on this machine",
            f"use --backend {_without_plan()}, or see edge doctor",
        )
    gpu = nvidia.gpu()
    if gpu is None:
        raise EngineError(
            f"{backend} needs an NVIDIA GPU to run {folder}, and this machine has none",
            "use --backend onnxruntime",
        )
    plan, hint = passport.plan, f"compile it here: edge compile {folder} --backend {backend}"
    if plan is None or plan.backend != backend:
        raise EngineError(f"{folder} has no {backend} plan", hint)
    version = str(nvidia.tensorrt(backend).__version__)
    if plan.version != version:
        raise EngineError(
            f"{folder} was compiled with {backend} {plan.version}, but this machine has {version}",
            f"{hint} (the new plan is judged again)",
        )
    if plan.compute_capability not in (None, gpu.compute_capability):
        raise EngineError(
            f"{folder} was compiled for {plan.gpu} (compute capability {plan.compute_capability}), "
            f"but this machine has {gpu.name} ({gpu.compute_capability})",
            hint,
        )
    if plan.model_sha256 != passport.files[plan.graph].sha256:
        raise EngineError(
            f"the plan of {folder} was compiled from another version of {plan.graph}", hint
        )
