"""Reads our source for what it asks of TensorRT, and asks the imported package whether it has it.

`python -m tests.trt_api.check BACKEND [FILE]` prints a line for each thing that is wrong, and last
how much it looked at. What a name holds follows from the signatures; `HOLDS` says it for names
whose value the source alone does not tell, and what it says is compared with what is known.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from edge.gpu import nvidia
from tests.trt_api.surface import Member, Signature, Surface, describe

ROOT = Path(__file__).resolve().parents[2]

PACKAGE = "trt"  # what the package itself is called here, as a type
ANY = "Any"  # what a function of ours that says no more returns
METHOD = "a method"

# What of TensorRT's a name holds, in each file that gives one a name; None for nothing of it.
HOLDS: dict[str, dict[str, str | None]] = {
    "edge/builder/compile.py": {
        "trt": PACKAGE,
        "log": "Log",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "errors": "list[ParserError]",
        "error": "ParserError",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "timing": "ITimingCache",
        "serialized": "IHostMemory",
        "flag": "NetworkDefinitionCreationFlag",
        "user_allocation": "BuilderFlag",
        "capabilities": "type[ComputeCapability]",
        # The IBuilderConfig of TensorRT-RTX: no other has what is set there.
        "settings": None,
        "levels": "type[ILogger.Severity]",
        "severity": "ILogger.Severity",
        "monitor": "Monitor",
    },
    "edge/engine/tensorrt.py": {
        "trt": PACKAGE,
        "self._runtime": "Runtime",
        "self.engine": "ICudaEngine",
        "runner.engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "context": "IExecutionContext",
        "self._contexts[count]": "IExecutionContext",
        "engine": "ICudaEngine",
        "inspector": "EngineInspector",
        "own_memory": "ExecutionContextAllocationStrategy",
        "specialisation": "type[DynamicShapesKernelSpecializationStrategy]",
        "config.dynamic_shapes_kernel_specialization_strategy": (
            "DynamicShapesKernelSpecializationStrategy"
        ),
        "self.contexts": None,  # an allocation strategy, or TensorRT-RTX's IRuntimeConfig
    },
}

# In a file from elsewhere, which is an example of what compile.py could look like.
EXAMPLE: dict[str, str | None] = {"trt": PACKAGE, "builder": "Builder"}

# Which annotations of pybind11's take a value of Python's.
PYTHON = {
    "int": {"int", "SupportsInt", "SupportsFloat", "float"},
    "float": {"SupportsFloat", "float"},
    "bool": {"bool", "int", "SupportsInt"},
    "str": {"str"},
    "bytes": {"buffer", "Buffer", "bytes"},
    "None": {"None"},
}


class Reader:
    """Reads one file; `findings` is what is wrong in it."""

    def __init__(self, path: Path, name: str, holds: dict[str, str | None], surface: Surface):
        self.name, self.holds, self.surface = name, holds, surface
        self.findings: list[str] = []
        self.looked: set[str] = set()  # members, as owner.member
        self.calls = 0
        self.met: set[str] = set()  # names of `holds`
        self.ours: dict[str, tuple[str, set[str]]] = {}  # subclass -> base, its own attributes
        self.self_is: str | None = None
        tree = ast.parse(path.read_text())
        # A file that has nothing of TensorRT's may call things Any as it likes.
        about = holds or re.search(r"nvidia\.tensorrt\(|\btrt\.[A-Z_]", path.read_text())
        self.vague = {
            node.name
            for node in ast.walk(tree)
            if about and isinstance(node, ast.FunctionDef) and _says(node.returns, ANY)
        }
        self.about = bool(about)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.subclass(node)
        self.visit(tree)
        for unmet in sorted(set(holds) - self.met):
            self.findings.append(f"{name}: HOLDS has {unmet}, the file no longer does")

    def wrong(self, node: ast.AST, text: str) -> None:
        line = f"{self.name}:{node.lineno}: {text}"  # type: ignore[attr-defined]
        if line not in self.findings:
            self.findings.append(line)

    # Statements

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self.type_of(node)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self.bind(target, self.type_of(node.value), node)
        elif isinstance(node, ast.AnnAssign):
            self.bind(node.target, self.type_of(node.value) if node.value else None, node)
        elif isinstance(node, ast.For):
            self.bind(node.target, _element(self.type_of(node.iter)), node)
            for child in node.body + node.orelse:
                self.visit(child)
        elif isinstance(node, ast.With):
            for item in node.items:
                held = self.type_of(item.context_expr)
                if item.optional_vars:
                    self.bind(item.optional_vars, held, node)
            for child in node.body:
                self.visit(child)
        elif isinstance(node, ast.ClassDef):
            self.visit_class(node)
        elif isinstance(node, ast.FunctionDef):
            arguments = node.args
            for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs:
                if self.about and _says(argument.annotation, ANY):
                    self.known(argument.arg, ANY, argument)
            for child in [*arguments.defaults, *node.decorator_list, *node.body]:
                self.visit(child)
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child)

    def visit_class(self, node: ast.ClassDef) -> None:
        """A class of ours; if it is a subclass of TensorRT's, see that it overrides what exists."""
        outer, self.self_is = self.self_is, node.name if node.name in self.ours else None
        for method in node.body:
            if self.self_is and isinstance(method, ast.FunctionDef) and method.name[0] != "_":
                self.overridden(node.name, method)
        for child in node.body:
            self.visit(child)
        self.self_is = outer

    def subclass(self, node: ast.ClassDef) -> None:
        """Remember a subclass of TensorRT's, and which attributes are its own."""
        for held in map(self.type_of, node.bases):
            if held is not None and held.startswith("type["):
                own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                stored = re.findall(r"\bself\.(\w+)(?:: [^\n=]+)? = ", ast.unparse(node))
                private = {name for name in own if name.startswith("_")}
                self.ours[node.name] = (held[5:-1], {*private, *stored})

    def overridden(self, ours: str, method: ast.FunctionDef) -> None:
        base = self.base(ours)
        member = self.member(base, method.name, method)
        count = len(method.args.args) - 1
        for signature in member.signatures if member else ():
            wanted = len(signature.parameters)
            if wanted != count:
                told = f"{base}.{method.name}() is called with {wanted} arguments"
                self.wrong(method, f"{told}, {ours} takes {count}")

    def bind(self, target: ast.expr, held: str | None, node: ast.AST) -> None:
        """`target` now holds something of this type: is that what the table says?"""
        if isinstance(target, ast.Attribute):
            owner = self.type_of(target.value)
            if owner is not None and self.is_tensorrt(owner):
                self.set_attribute(owner, target, held)
                return
        if isinstance(target, ast.Tuple | ast.List):
            for one in target.elts:
                self.bind(one, held if held == ANY else None, node)
        elif self.is_tensorrt(held) or held == ANY or ast.unparse(target) in self.holds:
            self.known(ast.unparse(target), held, node)

    def known(self, name: str, held: str | None, node: ast.AST) -> None:
        if name in self.holds:
            self.met.add(name)
            if held not in (None, ANY) and self.holds[name] not in self.ancestors(held):
                self.wrong(node, f"{name} holds {held}, by HOLDS it is {self.holds[name]}")
        else:
            what = "what nobody knows" if held == ANY else f"{held} of TensorRT's"
            self.wrong(node, f"{name} holds {what}: give it a line in HOLDS")

    # Expressions

    def type_of(self, node: ast.expr) -> str | None:
        """What an expression gives: a class of TensorRT's or Python's, None where it is not known.

        On the way everything within it is looked up.
        """
        if ast.unparse(node) in self.holds and isinstance(node, ast.Name | ast.Attribute):
            self.met.add(ast.unparse(node))
            return self.holds[ast.unparse(node)]
        if isinstance(node, ast.Constant):
            return type(node.value).__name__.replace("NoneType", "None")
        if isinstance(node, ast.JoinedStr):
            self.children(node)
            return "str"
        if isinstance(node, ast.Name):
            if node.id == "self":
                return self.self_is
            return f"type[{node.id}]" if node.id in self.ours else None
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            for each in node.generators:
                self.bind(each.target, _element(self.type_of(each.iter)), node)
                for condition in each.ifs:
                    self.type_of(condition)
            if isinstance(node, ast.DictComp):
                self.type_of(node.key)
                self.type_of(node.value)
                return None
            held = self.type_of(node.elt)
            return f"list[{held}]" if self.is_tensorrt(held) else None
        if isinstance(node, ast.IfExp):
            self.type_of(node.test)
            both = {self.type_of(node.body), self.type_of(node.orelse)} - {None, "None"}
            return both.pop() if len(both) == 1 else None
        if isinstance(node, ast.Subscript):
            self.type_of(node.slice)
            return _element(self.type_of(node.value))
        if isinstance(node, ast.NamedExpr):
            held = self.type_of(node.value)
            self.bind(node.target, held, node)
            return held
        if isinstance(node, ast.Compare):
            for one in ast.walk(node):
                is_version = isinstance(one, ast.Attribute) and one.attr == "__version__"
                if is_version and self.type_of(one.value) == PACKAGE:
                    self.wrong(node, "a branch by version, which this check cannot follow")
        self.children(node)
        return None

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def attribute(self, node: ast.Attribute) -> str | None:
        owner = self.type_of(node.value)
        if owner is None or not self.is_tensorrt(owner):
            return None
        kind = owner[5:-1] if owner.startswith("type[") else owner
        if kind in self.ours and node.attr in self.ours[kind][1]:
            return None
        member = self.member(kind, node.attr, node)
        if member is None:
            return None
        if member.kind == "class":
            return f"type[{member.type}]"
        return METHOD if member.kind == "method" else self.plain(member.type)

    def call(self, node: ast.Call) -> str | None:
        called = ast.unparse(node.func)
        if called in ("nvidia.tensorrt", "tensorrt"):
            self.arguments(node)
            return PACKAGE
        if called in ("getattr", "hasattr", "setattr", "delattr") and node.args:
            return self.by_name(node)
        if called in ("bytes", "memoryview", "bytearray"):
            given = self.arguments(node)
            for held in given:
                if held in self.surface.classes and not self.surface.classes[held].buffer:
                    self.wrong(node, f"{called}() takes no {held}")
            return "bytes"
        if called in ("int", "str", "float", "bool", "len"):
            self.arguments(node)
            return {"len": "int"}.get(called, called)
        held = self.type_of(node.func)
        if held is not None and held.startswith("type["):
            self.fit(node, held[5:-1], "__init__", False)
            return held[5:-1]
        if held == METHOD and isinstance(node.func, ast.Attribute):
            owner = self.type_of(node.func.value) or ""
            if owner.startswith("type["):
                return self.fit(node, owner[5:-1], node.func.attr, True)
            return self.fit(node, owner, node.func.attr, False)
        self.arguments(node)
        return ANY if called.removeprefix("self.") in self.vague else None

    def by_name(self, node: ast.Call) -> str | None:
        """getattr(object, "name", default) asks for what may be absent; others are not followed."""
        held = self.arguments(node)[0]
        if held is None or not self.is_tensorrt(held):
            return None
        if ast.unparse(node.func) != "getattr" or len(node.args) != 3:
            self.wrong(node, f"a {ast.unparse(node.func)}() that this check cannot follow")
            return None
        name, kind = node.args[1], held[5:-1] if held.startswith("type[") else held
        if isinstance(name, ast.Constant) and name.value in self.members(kind):
            member = self.members(kind)[name.value]
            self.looked.add(f"{kind}.{name.value}")
            return f"type[{member.type}]" if member.kind == "class" else self.plain(member.type)
        return None

    # Asking the package

    def members(self, kind: str) -> dict[str, Member]:
        if kind == PACKAGE:
            return self.surface.package
        found = self.surface.classes.get(self.base(kind))
        return found.members if found else {}

    def member(self, kind: str, name: str, node: ast.AST) -> Member | None:
        found = self.members(kind).get(name)
        if found is None:
            self.wrong(node, f"{kind}.{name}: TensorRT {self.surface.version} has no such thing")
        else:
            self.looked.add(f"{self.base(kind)}.{name}")
        return found

    def set_attribute(self, owner: str, node: ast.Attribute, held: str | None) -> None:
        if owner in self.ours and node.attr in self.ours[owner][1]:
            return
        member = self.member(owner, node.attr, node)
        if member is None:
            return
        if member.kind != "property" or not member.writable:
            self.wrong(node, f"{owner}.{node.attr} cannot be set")
        elif not self.takes(member.type, held):
            self.wrong(node, f"{owner}.{node.attr} takes {member.type}, not {held}")

    def fit(self, node: ast.Call, kind: str, name: str, unbound: bool) -> str | None:
        """See that one overload takes the arguments; what it returns."""
        given = self.arguments(node)
        own = name in self.ours.get(kind, ("", set()))[1]
        member = None if own else self.member(kind, name, node)
        if member is None:
            return None
        self.calls += 1
        told = f"{kind}.{name}()"
        if not member.signatures:
            self.wrong(node, f"{told}: its docstring tells no signature")
        positional = [one for one in node.args if not isinstance(one, ast.Starred)]
        more = len(positional) < len(node.args)
        keywords = [one.arg for one in node.keywords if one.arg is not None]
        if len(keywords) < len(node.keywords):
            self.wrong(node, f"{told} with **keywords, which this check cannot follow")
            return None
        if unbound:
            given = given[1:]
        why = []
        for signature in member.signatures:
            reason = self.overload(signature, len(positional) - unbound, keywords, more, given)
            if reason is None:
                return self.plain(signature.returns)
            why.append(reason)
        if why:
            self.wrong(node, f"{told}: {' / '.join(dict.fromkeys(why))}")
        return None

    def overload(
        self,
        signature: Signature,
        count: int,
        keywords: list[str],
        more: bool,
        given: list[str | None],
    ) -> str | None:
        """Why an overload does not take what is given; None if it does."""
        annotations = signature.match(count, keywords, more)
        if isinstance(annotations, str):
            return annotations
        if not more:
            for annotation, held in zip(annotations, given, strict=True):
                if not self.takes(annotation, held):
                    return f"it takes {annotation}, not {held}"
        return None

    def arguments(self, node: ast.Call) -> list[str | None]:
        return [self.type_of(one) for one in node.args] + [
            self.type_of(one.value) for one in node.keywords
        ]

    def takes(self, annotation: str, held: str | None) -> bool:
        """Whether what an annotation allows is what is held, as far as that is known."""
        if held is None or held in (ANY, "ellipsis"):
            return True
        words = set(re.findall(r"[\w.]+", annotation))
        if self.is_tensorrt(held):
            return bool(words & {*self.ancestors(held), "object"})
        return bool(words & PYTHON.get(held, {held}))

    def base(self, kind: str) -> str:
        """The class of TensorRT's that a class of ours stands on; any other is its own."""
        return self.ours[kind][0] if kind in self.ours else kind

    def ancestors(self, kind: str) -> list[str]:
        found = self.surface.classes.get(self.base(kind))
        return [kind, *(found.ancestors if found else [])]

    def plain(self, annotation: str) -> str | None:
        known = annotation in self.surface.classes or annotation in PYTHON
        return annotation if known else None

    def is_tensorrt(self, held: str | None) -> bool:
        if held is None:
            return False
        kind = re.sub(r"^\w+\[(.*)\]$", r"\1", held)
        return kind in (PACKAGE, METHOD) or kind in self.surface.classes or kind in self.ours


def _says(annotation: ast.expr | None, what: str) -> bool:
    return annotation is not None and ast.unparse(annotation) == what


def _element(held: str | None) -> str | None:
    return held[5:-1] if held is not None and held.startswith("list[") else None


def main(backend: str, files: list[str]) -> None:
    surface = describe(nvidia.tensorrt(backend))
    looked: set[str] = set()
    calls = 0
    for path in map(Path, files) if files else sorted((ROOT / "edge").rglob("*.py")):
        inside = path.is_relative_to(ROOT)
        name = path.relative_to(ROOT).as_posix() if inside else path.name
        holds = HOLDS.get(name, {}) if inside else EXAMPLE
        reader = Reader(path, name, holds, surface)
        looked |= reader.looked
        calls += reader.calls
        for finding in reader.findings:
            print(finding)
    print(f"TensorRT {surface.version}: {len(looked)} attributes, {calls} calls")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
