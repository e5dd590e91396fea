"""What an imported TensorRT package offers: classes, members and the signatures of the calls.

pybind11 writes every signature, overloads included, into the docstrings.
"""

from __future__ import annotations

import ctypes
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

BUFFERS = ctypes.pythonapi.PyObject_CheckBuffer
# A method that was bound before its class was tells the C++ name.
UNNAMED = {
    "nvonnxparser::IParserError": "ParserError",
    "nvinfer1::IRuntimeCache": "IRuntimeCache",
}


@dataclass(frozen=True)
class Signature:
    """One overload, without `self`. A parameter: (name, annotation, whether it may be left out)."""

    parameters: tuple[tuple[str, str, bool], ...]
    returns: str

    def match(self, count: int, keywords: list[str], more: bool = False) -> list[str] | str:
        """The annotations of `count` positional arguments and of the keywords, or why not.

        more: a `*star` follows, of nobody knows how many.
        """
        if count > len(self.parameters):
            return f"{count} positional arguments, it takes {len(self.parameters)}"
        taken = self.parameters[:count]
        rest = {name: annotation for name, annotation, _ in self.parameters[count:]}
        for name in keywords:
            # pybind11 calls a parameter without a name arg0, and takes it by position only.
            if name not in rest or re.fullmatch(r"arg\d+", name):
                return f"no keyword {name!r}"
        for name, _, optional in self.parameters[count:]:
            if not optional and name not in keywords and not more:
                return f"no argument for {name!r}"
        return [annotation for _, annotation, _ in taken] + [rest[name] for name in keywords]


@dataclass
class Member:
    """Of a class or of the package. kind: class, method, property or value."""

    kind: str
    type: str = ""  # of a property or value; the class's own name for a class
    writable: bool = False
    signatures: list[Signature] = field(default_factory=list)


@dataclass
class Class:
    ancestors: list[str]  # itself first
    buffer: bool
    members: dict[str, Member]


@dataclass
class Surface:
    version: str
    package: dict[str, Member]
    classes: dict[str, Class]


def describe(trt: Any) -> Surface:
    """Everything of an imported package."""
    surface = Surface(trt.__version__, {}, {})
    for name in dir(trt):
        surface.package[name] = _member(surface, trt, getattr(trt, name))
    return surface


def _member(surface: Surface, trt: Any, value: Any) -> Member:
    kind = type(value)
    if inspect.isclass(value) and value.__module__.startswith(trt.__name__):
        _class(surface, trt, value)
        return Member("class", value.__qualname__)
    if kind.__module__.startswith(trt.__name__):  # an enum's member
        return Member("value", kind.__qualname__)
    if isinstance(value, property):
        found = signatures(value.fget.__doc__)
        returns = found[0].returns if found else ""
        return Member("property", returns, value.fset is not None)
    if callable(value):
        return Member("method", signatures=signatures(value.__doc__))
    return Member("value", kind.__name__)


def _class(surface: Surface, trt: Any, value: Any) -> None:
    name = value.__qualname__
    if name in surface.classes:
        return
    ancestors = [one.__qualname__ for one in value.__mro__ if one.__module__ == value.__module__]
    surface.classes[name] = Class(ancestors, buffers(value), {})
    for member in dir(value):
        static = inspect.getattr_static(value, member)
        found = static if isinstance(static, property) else getattr(value, member)
        surface.classes[name].members[member] = _member(surface, trt, found)


def buffers(value: Any) -> bool:
    """Whether `bytes()` takes an object of this class."""
    try:
        # An object that was never constructed says it as well as any other.
        return bool(BUFFERS(ctypes.py_object(value.__new__(value))))
    except TypeError:
        return False


def signatures(text: str | None) -> list[Signature]:
    """The overloads that a docstring of pybind11's tells, without `self`."""
    found = []
    for line in (text or "").splitlines():
        match = re.fullmatch(r"(?:\d+\. )?\w*\((.*)\) -> (.+)", line.strip())
        if match:
            parameters = [_parameter(one) for one in _split(match[1]) if one not in ("*", "/")]
            if parameters and parameters[0][0] in ("self", "arg0"):
                parameters = parameters[1:]
            found.append(Signature(tuple(parameters), _short(match[2])))
    return found


def _parameter(text: str) -> tuple[str, str, bool]:
    name, _, annotation = text.partition(":")
    annotation, equals, _ = annotation.partition(" = ")
    return name.strip(), _short(annotation.strip()), bool(equals)


def _split(text: str) -> list[str]:
    """At commas outside of brackets; a default may be `<Severity.WARNING: 2>`."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _short(annotation: str) -> str:
    """tensorrt_bindings.tensorrt.ILogger.Severity -> ILogger.Severity"""
    for cpp, python in UNNAMED.items():
        annotation = annotation.replace(cpp, python)
    return re.sub(r"\b[a-z_]\w*\.(?=\w)", "", annotation)
