"""The check of a GPU machine, without one: what it packs, records and goes on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from scripts.gpu import check as gpu_check
from tests.hardware.support import ROOT


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "WORK", tmp_path / "work")
    monkeypatch.setattr(gpu_check, "VENV", tmp_path / "work/venv/bin/python")
    return tmp_path / "work"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Files of several sizes, packed: where they were, and where they are."""
    monkeypatch.setattr(gpu_check, "LARGEST", 1000)
    monkeypatch.setattr(gpu_check, "LOAD", 1500)
    flat, folder = tmp_path / "flat", tmp_path / "packed"
    (flat / "models").mkdir(parents=True)
    for name, size in (("a.whl", 2500), ("b.whl", 1000), ("c.whl", 10), ("models/d", 999)):
        (flat / name).write_bytes(os.urandom(size))
    return flat, folder, gpu_check.pack(flat, folder)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_packed_can_be_carried_and_joined(packed, tmp_path):
    flat, folder, loads = packed
    assert loads == 4
    for load in folder.iterdir():
        sizes = [len(data) for data in contents(load).values()]
        assert max(sizes) <= 1000 and sum(sizes) <= 1500
    gpu_check.unpack(folder, tmp_path / "joined")
    assert contents(tmp_path / "joined") == contents(flat)


def test_a_part_that_was_left_behind_is_named_and_the_rest_is_there(packed, tmp_path):
    flat, folder, _ = packed
    next(folder.rglob("a.whl.part-2-of-3")).unlink()
    with pytest.raises(gpu_check.Missing, match=r"part 2 of a\.whl"):
        gpu_check.unpack(folder, tmp_path / "joined")
    expected = contents(flat)
    del expected["a.whl"]
    assert contents(tmp_path / "joined") == expected


@pytest.fixture
def asked(work, tmp_path, monkeypatch):
    """asked(wheels, missing): what make_venv finds, and what pip is asked for, call by call."""

    def call(wheels, missing=()):
        calls = []

        def pip(_, *names):
            calls.append(names)
            ok = not set(names) & set(missing)
            return {"ok": ok, "exit": int(not ok), "seconds": 0, "out": "", "err": "no such wheel"}

        folder = tmp_path / "wheels"
        folder.mkdir()
        for name in wheels:
            (folder / f"{name}-1-cp311-none-any.whl").touch()
        monkeypatch.setattr(gpu_check, "pip", pip)
        monkeypatch.setattr(gpu_check, "python_for", lambda _: sys.executable)
        return gpu_check.make_venv(folder), calls

    return call


def test_without_its_wheel_onnxruntime_s_cuda_provider_is_not_asked_for(asked):
    found, (together,) = asked(["onnxruntime"])
    assert found["ok"] and "onnxruntime" in together
    assert gpu_check.CUDA_PROVIDER not in together


def test_the_cuda_provider_comes_with_its_cuda_and_in_place_of_onnxruntime(asked):
    """Both have one module: whichever were installed last would be it."""
    found, (together,) = asked(["onnxruntime", "onnxruntime_gpu"])
    assert found["ok"] and "onnxruntime-gpu[cuda,cudnn]" in together
    assert "onnxruntime" not in together


def test_a_cuda_provider_that_lacks_a_wheel_is_named_and_the_cpu_s_is_installed(asked):
    name = "onnxruntime-gpu[cuda,cudnn]"
    found, calls = asked(["onnxruntime", "onnxruntime_gpu"], missing=[name])
    assert found["missing"] == [name]
    assert calls[-1] == ("onnxruntime",)


def test_the_cuda_provider_is_gathered_when_it_is_asked_for(tmp_path, monkeypatch):
    gathered = []
    monkeypatch.setattr(gpu_check, "gather", lambda *words: gathered.append(words) or 0)
    gpu_check.main(["wheels", str(tmp_path)])
    gpu_check.main(["wheels", str(tmp_path), "--onnxruntime-gpu"])
    assert gathered == [(tmp_path,), (tmp_path, "onnxruntime-gpu[cuda,cudnn]")]
    with pytest.raises(SystemExit, match="--onnxruntime-gpu"):
        gpu_check.main(["wheels", str(tmp_path), "--onnxruntime"])


def test_every_step_that_fails_is_recorded_and_the_next_is_taken(work, tmp_path, monkeypatch):
    def stumble(_):
        raise RuntimeError("stumbled")

    steps = {"machine": lambda _: {"ok": True, "gpu": "NVIDIA X 1"}, "tests": stumble}
    steps["memcheck"] = gpu_check.sanitize("memcheck")
    steps["benchmark"] = lambda _: {"ok": True, "figures": {"a": 1}}
    monkeypatch.setattr(gpu_check, "STEPS", steps)
    monkeypatch.setattr(gpu_check, "toolkit", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    assert gpu_check.check(tmp_path, out, []) == 1
    (file,) = out.iterdir()
    assert file.name == "gpu-nvidia-x-1.json"
    found = json.loads(file.read_text())
    assert found["failed"] == ["tests", "memcheck"]
    assert found["tests"]["RuntimeError"] == "stumbled"
    assert found["memcheck"]["missing"] == "compute-sanitizer of the CUDA toolkit"
    assert found["benchmark"]["figures"] == {"a": 1}
    # Steps that are named are taken again, and what the others found is kept.
    for name in ("tests", "memcheck"):
        steps[name] = lambda _: {"ok": True}
    assert gpu_check.check(tmp_path, out, ["tests", "memcheck"]) == 0
    again = json.loads(file.read_text())
    assert again["failed"] == []
    assert again["benchmark"] == found["benchmark"]


def test_a_benchmark_that_is_stopped_keeps_its_figures(work, monkeypatch):
    """Even with a process beside it that holds its output open, as torch.compile's do."""
    gpu_check.VENV.parent.mkdir(parents=True)
    gpu_check.VENV.write_text(
        '#!/bin/sh\nfor file; do :; done\necho \'{"kernel": 1}\' > "$file"\nsleep 600 &\nwait\n'
    )
    gpu_check.VENV.chmod(0o755)
    monkeypatch.setattr(gpu_check, "packages_with_torch", lambda: None)
    monkeypatch.setattr(gpu_check, "BENCHMARK_SECONDS", 3)
    found = gpu_check.benchmark(work)
    assert not found["ok"] and found["exit"] == 124
    assert "stopped after 3 s" in found["tail"]
    assert found["figures"] == {"kernel": 1}


def test_the_tests_of_this_machine_are_read(tmp_path):
    report = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/engine/test_tensorrt.py"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "EDGE_REQUIRE_GPU": "1"}
    subprocess.run(
        [*command, f"--junitxml={report}", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    found = gpu_check.read_junit(report)
    assert found["files"] == {
        "tests.engine.test_tensorrt": {"passed": 0, "failed": 4, "skipped": 0}
    }
    assert all("needs an NVIDIA GPU" in reason for reason in found["failed"].values())


def test_without_wheels_the_reason_is_written(tmp_path):
    """The script itself, in a copy: it leaves nothing behind here."""
    copy = tmp_path / "copy/scripts"
    (copy / "gpu").mkdir(parents=True)
    for name in ("gpu_check.sh", "gpu/check.py"):
        (copy / name).write_bytes((ROOT / "scripts" / name).read_bytes())
        (copy / name).chmod(0o755)
    (tmp_path / "empty").mkdir()
    words = [copy / "gpu_check.sh", tmp_path / "empty", tmp_path / "out", "environment", "runners"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out/gpu-unknown.json").read_text())
    assert found["environment"]["missing"] == "numpy's wheel in the folder"
    assert found["runners"]["exit"] == 127
