"""What we ask of TensorRT exists in NVIDIA's own bindings, from 10.3 to 11.4: no GPU is needed."""

import os
import platform
import subprocess
import sys
from functools import cache

import pytest

from tests.trt_api import rehearse, wheels

RTX = "tensorrt-rtx"  # its libraries are installed, and it stands on those

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the wheels that are pinned here are for x86-64"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run("check", version, *words): the lines that tests/trt_api/check.py prints."""

    @cache
    def environment(version):
        if version == RTX:
            return {**os.environ, "PYTHONPATH": str(wheels.ROOT)}
        if wheels.TAG not in wheels.WHEELS[version]:
            pytest.skip(f"NVIDIA made no wheel of TensorRT {version} for {wheels.TAG}")
        folder = tmp_path_factory.mktemp(version)
        wheels.unpack(version, folder)
        return wheels.environment(folder)

    def call(module, version, *words):
        command = [sys.executable, "-m", f"tests.trt_api.{module}"]
        command += [RTX if version == RTX else "tensorrt", *words]
        done = subprocess.run(command, env=environment(version), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


# The first, which is that of JetPack 6, and the last; all others run in `make test-slow`.
VERSIONS = pytest.mark.parametrize(
    "version",
    [
        version
        if version in (next(iter(wheels.WHEELS)), next(reversed(wheels.WHEELS)))
        else pytest.param(version, marks=pytest.mark.slow)
        for version in (*wheels.WHEELS, RTX)
    ],
)


@VERSIONS
def test_all_that_the_source_asks_for_exists(run, version):
    *wrong, looked = run("check", version)
    assert wrong == []
    said, attributes, calls = looked.replace(":", ",").split(", ")
    assert version == RTX or said == f"TensorRT {version}"
    # Far fewer would mean that the reader no longer sees them.
    assert int(attributes.split()[0]) > 50 and int(calls.split()[0]) > 25, looked


@VERSIONS
def test_compiling_and_running_make_calls_that_its_signatures_take(run, version):
    assert run("rehearse", version)[-1].endswith(" calls")


MISTAKES = """
def build(trt, builder, config: Any, **rest):
    trt.Nonsense
    trt.DataType.FLOAT99
    builder.create_netwrok(0)
    builder.create_network(flag=0)
    builder.create_network(0, 1)
    builder.create_network("0")
    builder.create_network(**rest)
    trt.Builder()
    builder.num_DLA_cores = 1
    builder.max_threads = "x"
    builder.build_serialized_network(builder, builder)
    bytes(builder)
    network = builder.create_network()
    builder = trt.Logger()
    if hasattr(builder, "build_engine") or trt.__version__ >= "11":
        getattr(trt, "Nonsense", None)

    class Monitor(trt.IProgressMonitor):
        def step_complete(self, step):
            return self.nonsense

        def step_over(self, phase):
            pass
"""

FOUND = {
    2: ["config holds what nobody knows: give it a line in HOLDS"],
    3: ["trt.Nonsense: TensorRT {} has no such thing"],
    4: ["DataType.FLOAT99: TensorRT {} has no such thing"],
    5: ["Builder.create_netwrok: TensorRT {} has no such thing"],
    6: ["Builder.create_network(): no keyword 'flag'"],
    7: ["Builder.create_network(): 2 positional arguments, it takes 1"],
    8: ["Builder.create_network(): it takes SupportsInt, not str"],
    9: ["Builder.create_network() with **keywords, which this check cannot follow"],
    10: ["Builder.__init__(): no argument for 'logger'"],
    11: ["Builder.num_DLA_cores cannot be set"],
    12: ["Builder.max_threads takes int, not str"],
    13: [
        "Builder.build_serialized_network(): it takes INetworkDefinition, not Builder / "
        "no argument for 'kernel_text'"
    ],
    14: ["bytes() takes no Builder"],
    15: ["network holds INetworkDefinition of TensorRT's: give it a line in HOLDS"],
    16: ["builder holds Logger, by HOLDS it is Builder"],
    17: [
        "a hasattr() that this check cannot follow",
        "a branch by version, which this check cannot follow",
    ],
    21: ["IProgressMonitor.step_complete() is called with 2 arguments, Monitor takes 1"],
    22: ["Monitor.nonsense: TensorRT {} has no such thing"],
    24: ["IProgressMonitor.step_over: TensorRT {} has no such thing"],
}


def test_every_kind_of_mistake_is_named_with_its_file_and_line(run, tmp_path):
    version = "11.4.0.106"
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES)
    *wrong, _ = run("check", version, str(path))
    expected = [
        f"mistakes.py:{line}: {text.format(version)}" for line in FOUND for text in FOUND[line]
    ]
    assert sorted(wrong) == sorted(expected)


def test_a_rehearsal_refuses_what_the_signatures_refuse():
    stage = rehearse.Stage(RTX)
    builder = stage.Builder(stage.Logger())
    config = builder.create_builder_config()
    for wrong in (
        lambda: builder.create_network("0"),
        lambda: builder.create_network(flag=0),
        lambda: builder.create_network(0, 1),
        lambda: stage.Builder(builder),
        lambda: bytes(builder),
        lambda: builder.create_optimization_profile().set_shape("x", *[(1, 2.5)] * 3),
        lambda: builder.create_optimization_profile().set_shape("x", *[(1, 2)] * 2),
        lambda: setattr(config, "profiling_verbosity", 1),
        lambda: builder.create_netwrok(),
        lambda: stage.Nonsense,
    ):
        with pytest.raises((TypeError, AttributeError)):
            wrong()


def test_a_wheel_that_is_not_the_pinned_one_is_not_used(monkeypatch, tmp_path):
    def download(version, folder):
        (folder / "made.whl").write_bytes(b"another")
        return folder / "made.whl"

    monkeypatch.setattr(wheels, "CACHE", tmp_path)
    monkeypatch.setattr(wheels, "download", download)
    with pytest.raises(RuntimeError, match=r"11\.4\.0\.106 is not what it was"):
        wheels.wheel("11.4.0.106")
    assert list(tmp_path.glob("*.whl")) == []


def test_a_wheel_that_cannot_be_had_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "CACHE", tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"11\.4\.0\.106 cannot be downloaded"):
        wheels.wheel("11.4.0.106")
