"""The rooms of the house: which room imports which, and which packages. Checked by reading the AST.

Imports go down the table only. `builder` and the rooms of a run (`sources`, `run`, `outputs`,
`service`) never import each other: they meet in `engine` and in the files under `engines/`. A
package that is heavy or optional is imported inside the function that needs it.
"""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edge"
MODULES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Room:
    """A room of the house.

    imports   third-party packages that its modules import by an import statement
    requires  optional packages that they import by `edge.errors.require`
    """

    imports: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()


def room(imports: str = "", requires: str = "") -> Room:
    return Room(frozenset(imports.split()), frozenset(requires.split()))


# Highest first: a module imports from its own room and from the rooms below it.
ROOMS = {
    "__main__": room(),
    "cli": room("typer rich", "onnx pycuda cuda"),
    "service": room("msgspec"),
    "builder": room(
        "ml_dtypes msgspec numpy onnx PIL",
        "huggingface_hub jinja2 matplotlib onnxsim safetensors sentencepiece timm torch "
        "transformers",
    ),
    "outputs": room("numpy PIL", "gi lark paho prometheus_client"),
    "run": room("numpy"),
    "engine": room("msgspec numpy PIL", "onnxruntime pycuda"),
    "sources": room("numpy", "gi"),
    "preprocess": room("msgspec numba numpy PIL", "pillow_heif"),
    "gpu": room("numpy", "cuda pycuda tensorrt_rtx_libs"),
    "files": room("msgspec numpy tomli"),
    "errors": room(),
    "__init__": room(),
}
ORDER = list(ROOMS)
# The rooms of a run: never together with `builder` in one import.
RUN_ROOMS = {"sources", "run", "outputs", "service"}
# What of `builder` a board needs to make a plan: it imports only what the extra `device` brings.
ON_A_BOARD = (
    *("builder/attempts.py", "builder/compile.py", "builder/fixes.py", "builder/graph.py"),
    *("builder/plan.py", "builder/precision/"),
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """`edge.run.loop` -> `run`; `edge` itself is `__init__`."""
    return f"{module}.__init__".split(".")[1]


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


def third_party(path: Path) -> set[str]:
    packages = {imported.partition(".")[0] for imported, _ in imports(path)}
    return packages - set(sys.stdlib_module_names) - {"edge"}


def required(path: Path) -> set[str]:
    """The packages that a module asks for by `require`, with a literal name."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {
        call.args[0].value.partition(".")[0]
        for call in calls
        if getattr(call.func, "id", "") == "require"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


def test_every_file_lies_in_a_room():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "errors"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ORDER) - loose


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_and_never_between_builder_and_run(path):
    module = name_of(path)
    here = room_of(module)
    for imported, _ in imports(path):
        if not imported.startswith("edge.") or room_of(imported) == here:
            continue
        there = room_of(imported)
        below = ORDER.index(there) > ORDER.index(here) or module == "edge"  # load() opens an engine
        assert below, f"{module} imports {imported} from the room {there} above it"
        apart = (here == "builder" and there in RUN_ROOMS) or (
            there == "builder" and here in RUN_ROOMS
        )
        assert not apart, f"{module} imports {imported}"


@pytest.mark.parametrize("name", ORDER)
def test_a_room_imports_the_packages_of_the_table_and_no_others(name):
    paths = [path for path in MODULES if room_of(name_of(path)) == name]
    assert set().union(*map(third_party, paths)) == ROOMS[name].imports
    assert set().union(*map(required, paths)) == ROOMS[name].requires


# Files of the system or of this package, which are no pipes.
OWN_FILES = {
    "edge.builder.compile",
    "edge.builder.report.page",
    "edge.engine.onnxruntime",
    "edge.engine.timing",
    "edge.gpu.kernels",
    "edge.gpu.nvidia",
    "edge.outputs.telemetry.board",
    "edge.outputs.web.live",
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_read_by_the_guarded_reader(path):
    """`edge.files.reading` refuses pipes and devices, which might never end."""
    if name_of(path) in OWN_FILES | {"edge.files.reading"}:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {getattr(call.func, "attr", "") for call in calls} & {"read_text", "read_bytes"}


def test_every_package_of_the_table_is_declared():
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
    used = set().union(*(room.imports | room.requires for room in ROOMS.values()))
    from_the_system = {"gi"}
    assert {called.get(name, name) for name in used - from_the_system} <= declared
    needed = set()
    for path in MODULES:
        if path.relative_to(PACKAGE).as_posix().startswith(ON_A_BOARD):
            needed |= third_party(path)
    on_a_board = {
        re.split(r"[^\w-]", line)[0] for line in [*project["dependencies"], *extras["device"]]
    }
    assert needed <= on_a_board


def test_the_command_loads_what_it_runs_and_no_more():
    """Only typer and rich at the top of the command: `edge --help` must not wait for numpy."""
    light = {"edge.engine.choices", "edge.engine.heads", "edge.sources.camera"}
    for path in MODULES:
        module = name_of(path)
        if module != "edge.cli.doctor" and room_of(module) in ("__init__", "__main__", "cli"):
            at_top = {imported for imported, top in imports(path) if top}
            ours = {name for name in at_top if name.startswith("edge.")} - light
            assert {room_of(name) for name in ours} <= {"cli", "errors", "__init__"}, module


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


def test_a_run_needs_no_build_tools():
    rooms = ("gpu", "engine", "sources", "run", "outputs", "service", "cli")
    modules = [name_of(path) for path in MODULES if room_of(name_of(path)) in rooms]
    code = f"""
import importlib, sys
for name in ("torch", "transformers", "onnx", "onnxsim", "safetensors", "huggingface_hub"):
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
assert {str(ROOT)!r} in sys.modules["edge.run.loop"].__file__
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
    files = {*(ROOT / "tests").rglob("test_*.py")}
    folder = pytest.Dir.from_parent(request.session, path=ROOT / "tests")
    assert {*collected(folder)} == files
    for path in files:
        tests = [node for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
        assert any(test.name.startswith("test_") for test in tests), f"{path} has no test"
