"""Benchmark on a GPU: the preprocessing kernel, the network and both, in rotation in one run.

    PYTHONPATH=. python -m scripts.bench.gpu MODELS [--rounds 50] [--frames 10000] [--peers FOLDER]
        [--out FILE]

MODELS: the folder that scripts/gpu/models.py wrote. --peers: a folder of Python packages with
torch, torchvision, transformers and cvcuda, for an environment without them. Prints one JSON
object. Figures are medians; for anything that was not measured the reason is given. --out: a file
that is written after each part, so that the figures survive if a later part takes too long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx

from edge.builder.compile import compile_plan
from edge.engine.engine import Engine
from edge.engine.heads import Head
from edge.engine.onnxruntime_cuda import OrtCuda
from edge.engine.runner import Runner
from edge.engine.tensorrt import TensorRT
from edge.engine.timing import interleave
from edge.files.storage import write_bytes
from edge.gpu import nvidia
from edge.gpu.bindings import NoCapture
from edge.gpu.device import Device
from edge.preprocess.cuda import CudaPreprocessor
from edge.preprocess.processors import from_processor
from edge.preprocess.surface import FORMATS, DeviceSurface, Layout
from scripts.bench import figures
from scripts.gpu import models as gpu_models
from scripts.gpu import peers as gpu_peers
from scripts.gpu.peers import Absent
from tests.hardware import frames

SPEC = from_processor(
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}, (224, 224)
)
FULL_HD = (1920, 1080)
DISTINCT = 64  # frames: enough that each comes from memory and not from the L2 cache
COPY = 256 << 20
BATCHES = (1, 2, 4, 8)


def median(times: list[float]) -> float:
    return round(statistics.median(times), 5)


def nv12_frames(device: Device, size: tuple[int, int], count: int, mapped: bool) -> list[Any]:
    """NV12 surfaces of noise, in GPU memory or (mapped) in pinned memory that the GPU reads."""
    width, height = size
    layout, rng = Layout("NV12", width, height), np.random.default_rng(0)
    sizes = [FORMATS["NV12"].plane_size(plane, width, height) for plane in (0, 1)]
    luma = sizes[0][0] * sizes[0][1]
    total = luma + sizes[1][0] * sizes[1][1]
    made = []
    with device:
        for _ in range(count):
            memory = device.mapped(total)
            memory.array[:] = rng.integers(0, 256, total, np.uint8)
            address = memory.address
            if not mapped:
                copy = device.allocate(total)
                device.stream.upload(copy, memory.array)
                device.stream.wait()
                device.free(memory)
                address = int(copy)
            planes, pitches = (address, address + luma), (sizes[0][1], sizes[1][1])
            made.append(DeviceSurface(layout, planes, pitches))
    return made


def kernel_alone(
    device: Device, rounds: int, size: tuple[int, int] = FULL_HD, distinct: int = DISTINCT
) -> dict[str, Any]:
    """Time from NV12 in GPU memory to an FP16 tensor, by events, beside a plain copy and peers."""
    from cuda.bindings import driver

    width, height = size
    with device:
        ready = CudaPreprocessor(SPEC, device, "float16")
        surfaces = nv12_frames(device, size, distinct, mapped=False)
        records, address = ready.records(distinct)
        shared = max(ready.fill(r, s) for r, s in zip(records, surfaces, strict=True))
        out = device.allocate(distinct * 3 * SPEC.height * SPEC.width * 2)
        source, target = device.allocate(COPY), device.allocate(COPY)
        start, end = device.event(timing=True), device.event(timing=True)
        stream = device.stream

        def timed(call: Callable[[], object], parts: int) -> float:
            start.record(stream)
            call()
            end.record(stream)
            end.wait()
            return end.ms_since(start) / parts

        def copy() -> None:
            (code,) = driver.cuMemcpyDtoDAsync(int(target), int(source), COPY, stream.handle)
            assert not code, code

        result: dict[str, Any] = {"width": width, "height": height, "rounds": rounds}
        for batch in (1, 8):
            # A graph of launches, so that Python's time between them is not measured.
            with stream.capture() as graph:
                for first in range(0, distinct, batch):
                    at = address + first * records.itemsize
                    tensor = int(out) + first * 3 * SPEC.height * SPEC.width * 2
                    ready.launch(stream, at, batch, shared, tensor)
            turns: dict[str, Callable[[], float]] = {
                "kernel": lambda graph=graph, parts=distinct // batch: timed(
                    lambda: graph.launch(stream), parts
                ),
                "copy": lambda: timed(copy, 1),
            }
            absent: dict[str, str] = {}
            try:
                peers, by_torch = gpu_peers.preprocessing(size, batch, distinct)
                for name, call in peers.items():
                    if isinstance(call, Absent):
                        absent[name] = str(call)
                    else:
                        turns[name] = partial(by_torch, call)
            except Absent as reason:
                absent["torch, torchvision, CV-CUDA"] = str(reason)
            taken: dict[str, list[float]] = {name: [] for name in turns}
            for number in range(rounds + 3):
                for name, turn in turns.items():
                    ms = turn()
                    if number >= 3:
                        taken[name].append(ms)
            bandwidth = 2 * COPY / statistics.median(taken.pop("copy"))  # bytes read and written
            moved = batch * (width * height * 3 // 2 + 3 * SPEC.height * SPEC.width * 2)
            result[f"batch {batch}"] = {
                "ms": {name: median(times) for name, times in taken.items()},
                "bytes": moved,
                "copy_gb_per_s": round(bandwidth / 1e6, 1),
                "share_of_copy_bandwidth": round(
                    moved / bandwidth / statistics.median(taken["kernel"]), 4
                ),
                "absent": absent,
            }
    return result


def described(max_batch: int, classes: int) -> Any:
    """The fields of a passport that an engine and its runner read, for a graph without one."""
    return SimpleNamespace(
        name="gpu",
        plan=None,
        precision="",
        max_batch=max_batch,
        input_shape=(3, SPEC.height, SPEC.width),
        preprocess=SPEC,
        head=Head(labels=tuple(map(str, range(classes)))),
        labels=tuple(map(str, range(classes))),
        outputs=classes,
    )


def open_engine(path: Path, scratch: Path, messages: list[str]) -> tuple[Engine, dict[str, str]]:
    """The engine of a graph with the first runner that accepts it, and the errors of the others.

    Raises `Absent` if none accepts it.
    """
    passport = described(max(BATCHES), 1000)
    refused: dict[str, str] = {}
    for backend in nvidia.BACKENDS:
        try:
            if backend not in nvidia.installed():
                raise Absent("not installed")
            plan = scratch / f"{path.stem}.plan"
            shape, most = passport.input_shape, passport.max_batch
            compiled = compile_plan(
                path,
                backend,
                input_shape=shape,
                max_batch=most,
                cache=scratch,
                progress=lambda *_: None,
            )
            plan.write_bytes(compiled.data)
            return Engine(
                passport, TensorRT(backend, plan, passport), "bench", messages.append
            ), refused
        except Exception as error:
            refused[backend] = str(error)
    try:
        engine = Engine(passport, OrtCuda(path, passport), "bench", messages.append)
        frames.stays_the_same(engine, 1, *FULL_HD)
        return engine, refused
    except Exception as error:
        refused["onnxruntime-cuda"] = str(error)
    raise Absent(json.dumps(refused))


def ours(
    engine: Engine, batch: int, size: tuple[int, int], stages: dict[str, list[float]]
) -> Mapping[str, Callable[[], object]]:
    """Calls: from frames in pinned memory to the top five labels, and the network alone.

    stages: receives the GPU's times of each batch, by stage.
    """
    device, runner = engine.device, cast(Runner, engine._backend)
    assert device is not None
    slots = [engine.slot() for _ in range(batch)]
    for slot, surface in zip(slots, nv12_frames(device, size, batch, mapped=True), strict=True):
        slot.put(frames.frame(surface))

    def complete() -> None:
        engine.start(slots)
        for logits in engine.finish():
            engine.predict(logits).top(5)
        for stage, ms in engine.stages_ms.items():
            stages.setdefault(stage, []).append(ms)

    with device:
        stream = device.new_stream()
        execution = runner.execution(stream)

        def enqueue() -> None:
            execution.enqueue(batch)
            execution.download(batch)

        enqueue()
        stream.wait()
        try:
            execution.check_capture(batch)
            with stream.capture() as graph:
                enqueue()
            replay: Callable[[], object] = lambda: graph.launch(stream)  # noqa: E731
        except NoCapture:
            replay = enqueue

    def alone() -> None:
        with device:
            replay()
            stream.wait()

    return {"frame to top-5": complete, "network alone": alone}


def networks(
    engines: Mapping[str, Engine],
    rounds: int,
    size: tuple[int, int] = FULL_HD,
    compiled: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each batch size its name and figures: all engines and torch's networks, in rotation.

    compiled: compare with torch.compile, which takes minutes, instead of eager torch.
    """
    for batch in BATCHES:
        calls: dict[str, Callable[[], object]] = {}
        stages: dict[str, dict[str, list[float]]] = {}
        for precision, engine in engines.items():
            if batch <= engine.passport.max_batch:
                for name, call in ours(
                    engine, batch, size, stages.setdefault(precision, {})
                ).items():
                    calls[f"vit-edge {precision.upper()}, {name}"] = call
        absent: dict[str, str] = {}
        try:
            for name, peer in gpu_peers.networks(batch, size, compiled).items():
                if isinstance(peer, Absent):
                    absent[name] = str(peer)
                else:
                    calls[name] = peer
        except Absent as reason:
            absent["torch"] = str(reason)
        if calls:
            taken = interleave(calls, rounds)
            ms = {name: median(times) for name, times in taken.items()}
            row = {
                "ms": ms,
                "stages_ms": {
                    precision: {stage: median(times[-rounds:]) for stage, times in found.items()}
                    for precision, found in stages.items()
                },
                "rounds": rounds,
                "absent": absent,
            }
            yield f"batch {batch}", row


def measure_networks(
    models: Path, rounds: int, count: int, result: dict[str, Any], save: Callable[[], None]
) -> None:
    """Each precision that runs here: `count` frames alone, then all precisions in rotation.

    result: receives the figures. save: is called whenever figures were added.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines: dict[str, Engine] = {}
        for precision in ("fp16", "int8"):
            messages: list[str] = []
            path = scratch / f"vit-b16-{precision}.onnx"
            try:
                onnx.save(gpu_models.filled(onnx.load(models / path.name)), path)
                engine, refused = open_engine(path, scratch, messages)
                stack.enter_context(engine)
                found: dict[str, Any] = {"runner": engine.backend, "refused": refused}
                found["endurance"] = frames.stays_the_same(engine, count, *FULL_HD)
                found |= {"graphs": frames.graphs(engine), "said": messages}
                engines[precision] = engine
            except Exception as error:
                found = {"failed": str(error), "said": messages}
                traceback.print_exc()
            result[precision] = found
            save()
        for name, compiled in (("side by side", False), ("beside torch.compile", True)):
            rows: dict[str, Any] = {}
            result[name] = rows
            try:
                for batch, row in networks(engines, rounds, compiled=compiled):
                    rows[batch] = row
                    save()
            except Exception as error:
                traceback.print_exc()
                rows["failed"] = str(error)
                save()


def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a part, or the reason why it failed; the other parts continue."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return {"failed": str(error)}


def measure_kernel(rounds: int) -> dict[str, Any]:
    with closing(Device()) as device:
        return kernel_alone(device, rounds)


def measure(
    models: Path, rounds: int, count: int, save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All figures; after each part `save` receives those so far."""
    gpu = nvidia.gpu()
    result: dict[str, Any] = {
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.compute_capability if gpu else None,
        "machine": figures.machine(),
        "commit": figures.commit(),
    }
    result["kernel"] = attempt(lambda: measure_kernel(rounds))
    save(result)
    result["networks"] = {}
    measure_networks(models, rounds, count, result["networks"], partial(save, result))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))

    def save(found: dict[str, Any]) -> None:
        if arguments.out:
            write_bytes(arguments.out, json.dumps(found, indent=1).encode())

    found = measure(arguments.models, arguments.rounds, arguments.frames, save)
    print(json.dumps(found, indent=1))
    parts = (found["kernel"], *found["networks"].values())
    return int(any("failed" in part for part in parts))


if __name__ == "__main__":
    sys.exit(main())
