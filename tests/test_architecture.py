"""The house: which module may import which, and which package. Checked by reading the source.

`edge.build` and `edge.run` never import each other; both stand on the ground floor. What is heavy
or optional is imported inside the function that needs it.
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edge"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Floors, lowest first: a module imports from its own floor and from those below it.
FLOORS = [
    {"edge.errors", "edge.heads"},
    {
        "edge.arrays",
        "edge.toml",
        "edge.settings",
        "edge.storage",
        "edge.nvidia",
        "edge.gst",
        "edge.session",
        "edge.cuda",
        "edge.cuda_bindings",
        "edge.cuda_streams",
        "edge.kernels",
        "edge.preprocess.pictures",
        "edge.preprocess.resample",
        "edge.preprocess.surface",
        "edge.preprocess.fields",
    },
    {"edge.preprocess.spec", "edge.preprocess.colour", "edge.preprocess.reference"},
    {
        "edge.preprocess.processors",
        "edge.preprocess.timm_config",
        "edge.preprocess.sizes",
        "edge.preprocess.compiled",
        "edge.preprocess.cuda",
    },
    {"edge.passport", "edge.preprocess.cpu", "edge.bench", "edge.console", "edge.options"},
    {"edge.report", "edge.runner"},
    {"edge.trt", "edge.ortcuda"},
    {"edge.build.*", "edge.run.*"},
    {"edge.doctor"},
    {"edge.app"},
    {"edge.cli_build"},
    {"edge.cli_run"},
    {"edge.cli"},
    {"edge.__main__"},
]

# The package of third parties that each module may import, at its top or inside.
PACKAGES = {
    "edge.app": {"typer"},
    "edge.cli": {"typer"},
    "edge.cli_build": {"typer"},
    "edge.cli_run": {"typer"},
    "edge.console": {"rich"},
    "edge.options": {"typer"},
    "edge.build.cached": {"onnx"},
    "edge.build.precision.census": {"onnx"},
    "edge.heads": {"numpy"},
    "edge.arrays": {"numpy"},
    "edge.session": {"numpy"},
    "edge.cuda": {"numpy"},
    "edge.cuda_streams": {"numpy"},
    "edge.runner": {"numpy"},
    "edge.ortcuda": {"numpy"},
    "edge.passport": {"msgspec"},
    "edge.preprocess.colour": {"numpy"},
    "edge.preprocess.compiled": {"numba", "numpy"},
    "edge.preprocess.cuda": {"numpy"},
    "edge.preprocess.pictures": {"numpy", "PIL"},
    "edge.preprocess.reference": {"numpy"},
    "edge.preprocess.resample": {"numpy"},
    "edge.preprocess.spec": {"msgspec", "numpy"},
    "edge.preprocess.surface": {"numpy"},
    "edge.build.precision.ranges": {"msgspec", "onnx"},
    "edge.bench": {"numpy"},
    "edge.preprocess.cpu": {"numpy", "PIL"},
    "edge.build.graph": {"onnx"},
    "edge.build.export": {"numpy", "onnx"},
    "edge.build.simplify": {"numpy", "onnx"},
    "edge.build.precision.calibrate": {"numpy", "onnx"},
    "edge.build.report.findings": {"numpy"},
    "edge.build.precision.fp16": {"numpy", "onnx"},
    "edge.build.precision.histogram": {"numpy"},
    "edge.build.precision.numbers": {"ml_dtypes", "numpy"},
    "edge.build.precision.placement": {"numpy", "onnx"},
    "edge.build.report.outcome": {"onnx"},
    "edge.build.pipeline": {"onnx"},
    "edge.build.report.page": {"PIL"},
    "edge.build.precision.migrate": {"numpy", "onnx"},
    "edge.build.precision.search": {"numpy"},
    "edge.build.precision.sensitivity": {"numpy", "onnx"},
    "edge.build.precision.sites": {"onnx"},
    "edge.build.precision.statistics": {"numpy"},
    "edge.build.precision.quantize": {"numpy", "onnx"},
    "edge.build.verify": {"numpy", "onnx"},
    "edge.build.plan": {"numpy", "onnx"},
    "edge.build.candidates": {"numpy", "onnx"},
    "edge.build.judge": {"numpy", "onnx"},
    "edge.build.stages": {"onnx"},
    "edge.build.images": {"numpy"},
    "edge.build.recipes": {"msgspec"},
    "edge.run.parity.audit": {"numpy"},
    "edge.run.parity.auditor": {"numpy"},
    "edge.run.engine": {"numpy"},
    "edge.run.cpu": {"numpy"},
    "edge.run.gpu": {"numpy"},
    "edge.run.memory.gpureader": {"numpy"},
    "edge.run.onnxruntime": {"numpy"},
    "edge.run.loop": {"numpy"},
    "edge.run.frames": {"numpy"},
    "edge.run.memory.mapping": {"numpy"},
    "edge.run.record.caption": {"numpy", "PIL"},
    "edge.run.sinks": {"numpy", "PIL"},
    "edge.run.service.keys": {"msgspec"},
    "edge.settings": {"msgspec"},
    "edge.toml": {"tomli"},
    "edge.run.record.smoothing": {"numpy"},
    "edge.run.record.snapshots": {"PIL"},
    "edge.run.web.pictures": {"PIL"},
}
# What `require` may fetch, and who may ask for it.
REQUIRED = {
    "torch": {
        "edge.build.models.attention",
        "edge.build.export",
        "edge.build.models.network",
        "edge.build.models.resolution",
        "edge.build.models.texts",
        "edge.build.models.timm_library",
        "edge.build.models.timm_models",
    },
    "transformers": {
        "edge.build.models.network",
        "edge.build.models.texts",
        "edge.build.models.timm_library",
    },
    "timm": {"edge.build.models.timm_library"},
    "safetensors.torch": {"edge.build.models.timm_models"},
    "huggingface_hub": {"edge.build.models.hub"},
    "huggingface_hub.errors": {"edge.build.models.hub"},
    "sentencepiece": {"edge.build.models.texts"},
    "safetensors": {"edge.build.models.folders"},
    "onnx": {"edge.cli"},
    "onnxsim": {"edge.build.simplify"},
    "jinja2": {"edge.build.report.page"},
    "matplotlib.figure": {"edge.build.report.page", "edge.build.report.plots"},
    "matplotlib.style": {"edge.build.report.plots"},
    "matplotlib.ticker": {"edge.build.report.plots"},
    "lark": {"edge.run.record.rules"},
    "onnxruntime": {"edge.session", "edge.ortcuda"},
    "pycuda.driver": {"edge.cuda", "edge.doctor", "edge.ortcuda"},
    "pycuda.compiler": {"edge.kernels"},
    "cuda.bindings.driver": {"edge.cuda_bindings", "edge.doctor"},
    "tensorrt_rtx_libs": {"edge.nvidia"},
    "gi": {
        "edge.gst",
        "edge.run.record.broadcast",
        "edge.run.record.clips",
        "edge.run.memory.colour",
        "edge.run.sources.launch",
        "edge.run.memory.mapping",
    },
    "prometheus_client": {"edge.run.telemetry.metrics"},
    "prometheus_client.core": {"edge.run.telemetry.metrics", "edge.run.parity.metrics"},
    "paho.mqtt.client": {"edge.run.telemetry.broker", "edge.run.telemetry.mqtt"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top) of every import, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    found = []

    def walk(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    is_module = (ROOT / (inner.replace(".", "/") + ".py")).exists()
                    found.append((inner if is_module else child.module, top))
            walk(child, top and not isinstance(child, ast.FunctionDef))

    walk(tree, True)
    return found


def floor(module: str) -> int:
    face = ".".join(module.split(".")[:2]) + ".*"
    for number, names in enumerate(FLOORS):
        if module in names or face in names:
            return number
    raise AssertionError(f"{module} has no floor: add it to FLOORS")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down_and_never_across_the_faces(path):
    module = name_of(path)
    if path.name == "__init__.py":
        return
    for imported, _ in imports(path):
        if not imported.startswith("edge.") or imported == module:
            continue
        assert floor(imported) <= floor(module), f"{module} imports {imported} from above"
        faces = {name.split(".")[1] for name in (module, imported)}
        assert not {"build", "run"} <= faces, f"{module} imports {imported} of the other face"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_packages_of_the_table_are_imported_and_no_others(path):
    packages = {imported.partition(".")[0] for imported, _ in imports(path)}
    foreign = packages - set(sys.stdlib_module_names) - {"edge"}
    # tomli stands in for tomllib, which Python 3.10 has not.
    assert foreign == PACKAGES.get(name_of(path), set())


def test_every_package_of_the_tables_is_declared():
    """One that only another package brings is gone when that package drops it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    declared = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}
    called = {
        "PIL": "pillow",
        "cuda": "cuda_bindings",
        "paho": "paho_mqtt",
        "tensorrt_rtx_libs": "tensorrt_rtx_cu13_libs",
    }
    used = {name.partition(".")[0] for name in {*REQUIRED}.union(*PACKAGES.values())}
    from_the_system = {"gi"}
    assert {called.get(name, name) for name in used - from_the_system} <= declared
    light = {
        "edge.build.precision.numbers",
        "edge.build.precision.placement",
        "edge.build.precision.fp16",
        "edge.build.graph",
    }
    needed = set().union(*(PACKAGES[module] for module in light))
    on_a_board = {re.split(r"[^\w-]", line)[0] for line in extras["device"]}
    assert needed - {"numpy"} <= on_a_board


def test_the_command_loads_what_it_runs_and_no_more():
    """Only typer and rich at the top of the command: `edge --help` must not wait for numpy."""
    heavy = {"edge.build", "edge.run", "edge.doctor", "edge.bench", "edge.passport"}
    for module in (
        "edge",
        "edge.__main__",
        "edge.app",
        "edge.cli",
        "edge.cli_build",
        "edge.cli_run",
        "edge.console",
    ):
        path = next(path for path in MODULES if name_of(path) == module)
        at_top = {imported for imported, top in imports(path) if top}
        assert not [name for name in at_top if name.startswith(tuple(heavy))]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_are_asked_for_where_the_table_says(path):
    for node in ast.walk(ast.parse(path.read_text())):
        is_require = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"
        if is_require and node.args and isinstance(node.args[0], ast.Constant):
            wanted = node.args[0].value.partition(".repository")[0]
            assert name_of(path) in REQUIRED[wanted], f"{name_of(path)} requires {wanted}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_one_thing(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_exports_exist_and_are_named_once(path):
    module = importlib.import_module(name_of(path))
    names = getattr(module, "__all__", [])
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(names) == len(set(names))


def test_import_edge_is_light():
    code = (
        "import sys, edge; "
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "{'numpy', 'onnx', 'torch', 'PIL', 'gi', 'typer', 'rich', 'onnxruntime'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_run_face_needs_no_build_tools():
    code = f"""
import sys
for name in ("torch", "transformers", "onnx", "onnxsim", "safetensors", "huggingface_hub"):
    sys.modules[name] = None
import edge.cli, edge.run.sources.camera, edge.run.loop, edge.run.sinks, edge.run.engine
import edge.doctor
import edge.trt, edge.report, edge.bench, edge.run.telemetry.mqtt, edge.run.telemetry.metrics
assert {str(ROOT)!r} in edge.cli.__file__
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def collected(folder: pytest.Dir) -> Iterator[Path]:
    """The modules that pytest finds in a folder and those below; none is imported for it."""
    for found in folder.collect():
        if isinstance(found, pytest.Dir):
            yield from collected(found)
        elif isinstance(found, pytest.Module):
            yield found.path


def test_every_test_file_is_collected(request):
    """pytest passes over folders named `build` unless it is told not to."""
    files = {*(ROOT / "tests").rglob("test_*.py")}
    folder = pytest.Dir.from_parent(request.session, path=ROOT / "tests")
    assert {*collected(folder)} == files
    for path in files:
        tests = [node for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
        assert any(test.name.startswith("test_") for test in tests), f"{path} has no test"
