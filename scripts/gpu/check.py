"""The steps of scripts/gpu_check.sh, with the standard library only: it creates the environment.

A step that fails is recorded with the end of its output, and the other steps continue.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/gpu-check"
VENV = WORK / "venv/bin/python"
PYTHON = "3.12"  # wheels are downloaded for this version
BENCHMARK_SECONDS = 540
LARGEST, LOAD = 45 << 20, 56 << 20  # bytes of a file, and of one folder to carry

# Names on PyPI. The check needs the first ones; others are reported if they are missing.
NEEDED = ("numpy", "pillow", "msgspec", "onnx", "onnxruntime", "ml_dtypes", "pytest")
WANTED = ("cuda-bindings", "nvidia-cuda-nvrtc")
RTX = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings")
# Replaces onnxruntime: the same module with the CUDA provider, and the CUDA that it needs.
CUDA_PROVIDER = "onnxruntime-gpu[cuda,cudnn]"
WITH_CUDA_PROVIDER = "--onnxruntime-gpu"  # only on request: it has gigabytes
# To compile PyCUDA, with the CUDA toolkit or, without one, with these headers.
BUILDING = ("pip", "setuptools", "wheel", "pytools", "mako", "platformdirs")
HEADERS = ("nvidia-cuda-runtime", "nvidia-cuda-profiler-api")
TESTS = ("tests/hardware", "tests/engine/test_tensorrt.py")  # the tests in them that are marked gpu


def info(text: str) -> None:
    print(f"gpu_check: {text}", file=sys.stderr, flush=True)


def report_failure(done: dict[str, Any]) -> None:
    if not done["ok"]:
        info(json.dumps(done))


# On the PC with a network.


def gather(folder: Path, *more: str) -> int:
    """Download the packages, build the networks, and pack all into folders to carry.

    more: packages in addition to those of every check. Returns the exit code.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"error: {folder} is not empty; name a new folder")
    flat = folder / "flat"
    flat.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    download += ["--dest", str(flat), "--constraint", str(ROOT / "constraints.txt")]
    binary = ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
    for glibc in ("2_28", "2_27", "2_17", "2014"):
        binary += ["--platform", f"manylinux{'' if glibc == '2014' else '_'}{glibc}_x86_64"]
    info("downloading wheels")
    packages = (*NEEDED, *WANTED, *RTX, *BUILDING, *HEADERS, *more)
    subprocess.run([*download, *binary, *packages], check=True)
    source = ["--no-deps", "--no-binary", "pycuda", "--no-build-isolation", "pycuda"]
    subprocess.run([*download, *source], check=True)
    info("compiling PyCUDA, for a machine without a compiler or Python's headers")
    try:
        report_failure(make_venv(flat))
        settings, _ = pycuda_settings(flat)
        words = ["--no-build-isolation", "--no-deps", "--wheel-dir", flat, "pycuda"]
        report_failure(short(pip(flat, *words, verb="wheel", seconds=900, **settings)))
    except Missing as missing:
        info(f"only its source is packed, since this is missing: {missing}")
    info("building the networks, some minutes")
    models = [sys.executable, "-m", "scripts.gpu.models", str(flat / "models")]
    subprocess.run(models, check=True, cwd=ROOT, stdout=sys.stderr)
    (flat / "commit").write_text(commit() + "\n")
    loads = pack(flat, folder)
    shutil.rmtree(flat)
    info(f"{loads} folders of at most {LOAD >> 20} MB in {folder}")
    return 0


def pack(flat: Path, folder: Path) -> int:
    """Copy files from `flat` to folder/1, folder/2, ...; a large file as NAME.part-1-of-2, ...

    Returns the number of folders."""
    pieces: list[tuple[Path, bytes]] = []
    for path in sorted(p for p in flat.rglob("*") if p.is_file()):
        data, name = path.read_bytes(), path.relative_to(flat)
        count = max(1, -(-len(data) // LARGEST))
        for part in range(count):
            piece = data[part * LARGEST : (part + 1) * LARGEST]
            suffix = f".part-{part + 1}-of-{count}" if count > 1 else ""
            pieces.append((name.with_name(name.name + suffix), piece))
    loads: list[int] = []
    for name, piece in sorted(pieces, key=lambda piece: -len(piece[1])):
        fits = (i for i, used in enumerate(loads) if used + len(piece) <= LOAD)
        number = next(fits, len(loads))
        if number == len(loads):
            loads.append(0)
        loads[number] += len(piece)
        target = folder / str(number + 1) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(piece)
    return len(loads)


def unpack(folder: Path, flat: Path) -> None:
    """Restore in `flat` the files that `pack` split; also accepts a folder of plain wheels.

    Raises `Missing` if parts are missing."""
    shutil.rmtree(flat, ignore_errors=True)
    flat.mkdir(parents=True)
    parts: dict[Path, dict[int, Path]] = {}
    counts: dict[Path, int] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if name.parts[0].isdigit():
            name = Path(*name.parts[1:])
        found = re.fullmatch(r"(.+)\.part-(\d+)-of-(\d+)", name.name)
        joined = name.with_name(found[1]) if found else name
        parts.setdefault(joined, {})[int(found[2]) if found else 1] = path
        counts[joined] = int(found[3]) if found else 1
    missing = [
        f"part {n} of {name}"
        for name in parts
        for n in range(1, counts[name] + 1)
        if n not in parts[name]
    ]
    for name, pieces in parts.items():
        if len(pieces) == counts[name]:
            (flat / name).parent.mkdir(parents=True, exist_ok=True)
            with (flat / name).open("wb") as target:
                for number in sorted(pieces):
                    target.write(pieces[number].read_bytes())
    if missing:
        raise Missing(", ".join(missing))


# On the machine with the GPU.


class Missing(Exception):
    """Something that a step needs is missing."""


def commit() -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def run(command: Sequence[object], seconds: int, **environment: str) -> dict[str, Any]:
    """Run a command; returns its exit status, its output, and how long it took."""
    words = [str(word) for word in command]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    start = time.monotonic()
    try:
        status, out, err = _communicate(words, variables, seconds)
    except OSError as error:
        status, out, err = 127, "", str(error)
    return {
        "ok": status == 0,
        "exit": status,
        "seconds": round(time.monotonic() - start, 1),
        "out": out,
        "err": err,
    }


def _communicate(words: list[str], variables: dict[str, str], seconds: int) -> tuple[int, str, str]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
            return process.returncode, out, err
        except BaseException as error:
            # Kill the process group: torch.compile's workers would keep the output open.
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            out, err = process.communicate()
            return 124, out, f"{err}\nstopped after {seconds} s"


def short(done: dict[str, Any]) -> dict[str, Any]:
    """The same without the output; after a failure with the end of it."""
    result = {name: done[name] for name in ("ok", "exit", "seconds")}
    if not done["ok"]:
        result["tail"] = (done["out"][-2000:] + "\n" + done["err"][-3000:]).strip()
    return result


def python_for(wheels: Path) -> Path:
    """A Python of the version of numpy's wheel. Raises `Missing`."""
    tags = {
        found[1]
        for path in wheels.glob("numpy-*.whl")
        if (found := re.search(r"-cp(3\d+)-", path.name))
    }
    if not tags:
        raise Missing("numpy's wheel in the folder")
    names = [sys.executable, *(f"python3.{minor}" for minor in (12, 13, 11, 10)), "python3"]
    ask = "import sys, sys as s; print('%d%d' % s.version_info[:2], sys.executable)"
    for name in names:
        done = run([name, "-c", ask], 20)
        tag, _, path = done["out"].strip().partition(" ")
        if done["ok"] and tag in tags:
            return Path(path)
    raise Missing(f"a Python for the wheels' tags, {', '.join(sorted(tags))}, on the PATH")


def pip(
    wheels: Path, *words: object, verb: str = "install", seconds: int = 300, **environment: str
) -> dict[str, Any]:
    """Run pip from its wheel, so that no Python needs it, with packages of the folder only."""
    found = sorted(wheels.glob("pip-*.whl"))
    if not found:
        raise Missing("pip's wheel in the folder")
    program = [VENV, found[-1] / "pip", "--disable-pip-version-check", "--no-cache-dir", verb]
    offline = ["--no-index", "--find-links", wheels]
    return run([*program, *offline, *words], seconds, PIP_CONFIG_FILE=os.devnull, **environment)


def make_venv(folder: Path) -> dict[str, Any]:
    """Create the environment, from the folder only."""
    wheels, missing = WORK / "wheels", []
    try:
        unpack(folder, wheels)
    except Missing as error:
        missing.append(str(error))
    python = python_for(wheels)
    shutil.rmtree(WORK / "venv", ignore_errors=True)
    made = run([python, "-m", "venv", "--without-pip", WORK / "venv"], 60)
    if not made["ok"]:
        return short(made)
    packages = [*BUILDING, *NEEDED, *WANTED, *RTX]
    if any(wheels.glob("onnxruntime_gpu-*.whl")):
        packages[packages.index("onnxruntime")] = CUDA_PROVIDER
    together = short(pip(wheels, *packages))
    # Installing one at a time shows what is missing, and installs the rest.
    alone = [] if together["ok"] else packages
    installed = {name: short(pip(wheels, name)) for name in alone}
    if CUDA_PROVIDER in installed and not installed[CUDA_PROVIDER]["ok"]:
        installed["onnxruntime"] = short(pip(wheels, "onnxruntime"))
    missing += [name for name, done in installed.items() if not done["ok"]]
    return {
        "ok": not missing,
        "python": str(python),
        "missing": missing,
        "said": {name: installed[name]["tail"] for name in missing if name in installed},
    }


def toolkit() -> Path | None:
    """The folder of the CUDA toolkit, searched in the order of `edge.gpu.kernels.find_nvcc`."""
    nvcc, local = shutil.which("nvcc"), Path("/usr/local")
    places = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parents[1]]

    def version(path: Path) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path.name)]

    places += [local / "cuda", *sorted(local.glob("cuda-*"), key=version, reverse=True)]
    return next((Path(p) for p in places if p and (Path(p) / "include/cuda.h").is_file()), None)


def build_pycuda(_: Path) -> dict[str, Any]:
    """Compile PyCUDA from its source; if that fails, install the wheel that the PC built."""
    wheels = WORK / "wheels"
    try:
        words = ["--no-build-isolation", "--no-binary", "pycuda", "pycuda"]
        settings, origin = pycuda_settings(wheels)
        done = {**short(pip(wheels, *words, seconds=540, **settings)), "with": origin}
    except Missing as error:
        done = {"ok": False, "missing": str(error)}
    if not done["ok"] and any(wheels.glob("pycuda-*.whl")):
        ready = short(pip(wheels, "--only-binary", "pycuda", "pycuda"))
        return {**ready, "with": "the wheel that was carried", "from source": done}
    return done


def pycuda_settings(wheels: Path) -> tuple[dict[str, str], str]:
    """The environment variables to compile PyCUDA, without CURAND, and where its headers are from.

    Raises `Missing`.
    """
    home, cuda = WORK / "home", toolkit()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    if cuda is not None:
        include, origin = cuda / "include", str(cuda)
    else:
        done = pip(wheels, "--no-deps", "--target", home / "cuda", *HEADERS)
        if not done["ok"]:
            raise Missing(f"CUDA's headers: {done['err'][-500:]}")
        include = next((home / "cuda").rglob("cuda.h")).parent
        origin = "no CUDA toolkit: headers from PyPI"
    # libcuda belongs to the driver; an empty library of that name is enough to link.
    empty = ["-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", os.devnull]
    linked = run(["gcc", *empty, "-o", home / "libcuda.so"], 60)
    if not linked["ok"]:
        raise Missing(f"a C compiler: {linked['err'][-500:]}")
    # PyCUDA's setup.py reads this file from the home folder.
    (home / ".aksetup-defaults.py").write_text(
        f'CUDA_INC_DIR = ["{include}"]\nCUDADRV_LIB_DIR = ["{home}"]\n'
        'CUDA_ENABLE_CURAND = False\nCXXFLAGS = ["-O1", "-g0", "-w"]\n'
    )
    flags = {"LDFLAGS": "-Wl,--no-as-needed", "HOME": str(home), "CC": "gcc", "CXX": "g++"}
    return flags, origin


def describe_machine(_: Path) -> dict[str, Any]:
    """GPU, driver, CUDA, versions and commit."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,compute_cap,memory.total",
        "--format=csv,noheader",
    ]
    smi, nvcc = run(query, 60), run([(toolkit() or Path("/")) / "bin/nvcc", "--version"], 60)
    listing = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    listed = run([VENV, "-c", listing], 60)
    cuda = "from cuda.bindings import driver as d; d.cuInit(0); print(d.cuDriverGetVersion()[1])"
    version = run([VENV, "-c", cuda], 60)
    carried = WORK / "wheels/commit"
    fields = [field.strip() for field in smi["out"].partition("\n")[0].split(",")]
    names = ("gpu", "driver", "compute_capability", "memory")
    found = dict(zip(names, fields, strict=False)) if smi["ok"] else dict.fromkeys(names)
    release = re.search(r"\bV(\d[\d.]*)", nvcc["out"])
    return {
        "ok": smi["ok"],
        **found,
        "cuda_of_driver": version["out"].strip() or None,
        "nvcc": release[1] if release else None,
        "versions": json.loads(listed["out"]) if listed["ok"] else {},
        "commit": commit() or None,
        "commit_of_wheels": carried.read_text().strip() if carried.is_file() else None,
        "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0))},
        **({} if smi["ok"] else {"tail": smi["err"][-1000:] or smi["out"][-1000:]}),
    }


def runners(_: Path) -> dict[str, Any]:
    """Whether TensorRT-RTX or TensorRT accept this compute capability, and their errors if not."""
    done = run([VENV, "-m", "scripts.gpu.accepts", engine()], 240)
    # TensorRT's own messages about a plan that it refuses are on stderr.
    result = {**short(done), "stderr": done["err"][-3000:]}
    try:
        return {**result, **json.loads(done["out"])}
    except ValueError:
        return result


def tests(_: Path) -> dict[str, Any]:
    """The results of pytest -m gpu, test by test."""
    report = WORK / "tests.xml"
    report.unlink(missing_ok=True)
    done = run(
        [
            VENV,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *TESTS,
        ],
        400,
        EDGE_REQUIRE_GPU="1",
        EDGE_GPU_ENGINE=str(engine()),
    )
    return {**short(done), **(read_junit(report) if report.is_file() else {})}


def read_junit(report: Path) -> dict[str, Any]:
    """Counts by file, failed and skipped tests with reasons, and values that tests recorded."""
    files: dict[str, dict[str, int]] = {}
    failed: dict[str, str] = {}
    skipped: dict[str, int] = {}
    recorded: dict[str, dict[str, str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        file, name = case.get("classname", ""), case.get("name", "")
        bad = [node for kind in ("failure", "error") for node in case.findall(kind)]
        skip = case.find("skipped")
        kind = "failed" if bad else "skipped" if skip is not None else "passed"
        counts = files.setdefault(file, {"passed": 0, "failed": 0, "skipped": 0})
        counts[kind] += 1
        if bad and len(failed) < 50:
            failed[f"{file}::{name}"] = (bad[0].get("message") or "")[:400]
        if kind == "skipped" and skip is not None:
            reason = skip.get("message") or ""
            skipped[reason] = skipped.get(reason, 0) + 1
        values = {node.get("name", ""): node.get("value", "") for node in case.iter("property")}
        if values:
            recorded[f"{file}::{name}"] = values
    return {"files": files, "failed": failed, "skipped": skipped, "recorded": recorded}


def sanitize(tool: str) -> Callable[[Path], dict[str, Any]]:
    def step(_: Path) -> dict[str, Any]:
        path = os.environ["PATH"] + f":{toolkit()}/bin:{toolkit()}/compute-sanitizer"
        program = shutil.which("compute-sanitizer", path=path)
        if program is None:
            raise Missing("compute-sanitizer of the CUDA toolkit")
        words = [program, "--tool", tool, "--error-exitcode", "66"]
        done = run([*words, VENV, "-m", "scripts.gpu.launch"], 300)
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY:.*", done["out"] + done["err"])
        return {**short(done), "summary": summary}

    step.__doc__ = f"compute-sanitizer {tool} over launches of the kernel."
    return step


def benchmark(_: Path) -> dict[str, Any]:
    """The figures of scripts/bench/gpu.py; if it is stopped, those that it had written."""
    command = [VENV, "-m", "scripts.bench.gpu", WORK / "wheels/models"]
    peers = packages_with_torch()
    if peers is not None:
        command += ["--peers", peers]
    figures = WORK / "figures.json"
    figures.unlink(missing_ok=True)
    done = run([*command, "--out", figures], BENCHMARK_SECONDS)
    found = {**short(done), "peers": str(peers)}
    if figures.is_file():
        found["figures"] = json.loads(figures.read_text())
    return found


def packages_with_torch() -> Path | None:
    """The packages of a Python that has torch and the environment's Python version."""
    ask = "import sys, torch; print('%d.%d' % sys.version_info[:2], torch.__path__[0])"
    version = run([VENV, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], 20)
    for name in (sys.executable, "python3"):
        found, _, path = run([name, "-c", ask], 60)["out"].strip().partition(" ")
        if path and found == version["out"].strip():
            return Path(path).parent
    return None


def engine() -> Path:
    return WORK / "wheels/models/tiny-int8"


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "environment": make_venv,
    "pycuda": build_pycuda,
    "machine": describe_machine,
    "runners": runners,
    "tests": tests,
    "memcheck": sanitize("memcheck"),
    "racecheck": sanitize("racecheck"),
    "benchmark": benchmark,
}


def check(folder: Path, out: Path, names: Sequence[str]) -> int:
    """Run all steps, or the named ones and keep the results of the others.

    The JSON file is written after each step. Returns the exit code."""
    if unknown := set(names) - set(STEPS):
        raise SystemExit(f"error: no step {', '.join(unknown)}; choose from {', '.join(STEPS)}")
    kept = WORK / "steps.json"
    steps = json.loads(kept.read_text()) if names and kept.is_file() else {}
    out.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names or STEPS:
        info(name)
        start = time.monotonic()
        try:
            found = STEPS[name](folder)
        except Exception as error:  # the other steps continue
            what = "missing" if isinstance(error, Missing) else type(error).__name__
            found = {"ok": False, what: str(error)}
        found.setdefault("seconds", round(time.monotonic() - start, 1))
        steps[name] = {**found, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        kept.write_text(json.dumps(steps))
        if not found["ok"]:
            info(f"{name} failed")
        target = write(out, steps)
    info(f"wrote {target}")
    return 0 if all(step["ok"] for step in steps.values()) else 1


def write(out: Path, steps: dict[str, Any]) -> Path:
    """Write out/gpu-NAME.json, or gpu-unknown.json while the GPU's name is unknown."""
    gpu = steps.get("machine", {}).get("gpu") or "unknown"
    target = out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"
    failed = [name for name, step in steps.items() if not step["ok"]]
    target.write_text(json.dumps({"failed": failed, **steps}, indent=1) + "\n")
    unknown = out / "gpu-unknown.json"
    if target != unknown:
        unknown.unlink(missing_ok=True)
    return target


def main(arguments: Sequence[str]) -> int:
    verb, folder, *rest = arguments
    if verb == "wheels":
        if rest not in ([], [WITH_CUDA_PROVIDER]):
            raise SystemExit(
                f"error: unknown arguments {' '.join(rest)}; allowed: {WITH_CUDA_PROVIDER}"
            )
        return gather(Path(folder).absolute(), *([CUDA_PROVIDER] if rest else []))
    out = Path(rest[0] if rest else "gpu-check").absolute()
    return check(Path(folder).absolute(), out, rest[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
