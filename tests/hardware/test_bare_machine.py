"""What runs on a machine that is checked asks for no package that scripts/gpu/check.py lacks."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.gpu import check as gpu_check
from tests.hardware.support import ROOT

# Nothing imports a module that is None in sys.modules, nor finds its spec.
BARE = "import json, runpy, sys; sys.modules.update(dict.fromkeys(json.loads(sys.argv.pop(1))));"
COLLECT = BARE + "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
IMPORT = BARE + "runpy.run_path(sys.argv[1], run_name='imported')"


def closure(names: Iterable[str]) -> set[str]:
    """Distributions, and all that they need here without extras, by canonical name."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [
                canonicalize_name(one.name)
                for one in needs
                if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return found


def modules_that_are_not_carried() -> list[str]:
    carried = closure((*gpu_check.NEEDED, *gpu_check.WANTED)) | {"vit-edge"}
    owners = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, names in owners.items()
        if not carried & {canonicalize_name(name) for name in names}
    )


def bare(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    absent = json.dumps(modules_that_are_not_carried())
    return subprocess.run(
        [sys.executable, "-c", program, absent, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_what_a_pc_has_besides_is_not_carried():
    assert {"hypothesis", "torch", "transformers", "xdist"} <= set(modules_that_are_not_carried())


def test_the_tests_for_a_gpu_are_collected():
    words = ["-m", "gpu", "--collect-only", "-p", "no:cacheprovider", *gpu_check.TESTS]
    done = bare(COLLECT, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("test_frames_gpu", "test_kernel_gpu", "test_tensorrt"):
        assert f"{name}.py::" in done.stdout


@pytest.mark.parametrize("script", ["gpu/accepts", "gpu/launch", "bench/gpu"])
def test_the_scripts_are_imported(script):
    done = bare(IMPORT, ROOT / f"scripts/{script}.py")
    assert done.returncode == 0, done.stderr
