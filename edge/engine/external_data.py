"""Which files an ONNX graph reads its weights from, besides its own.

A device that runs engines has no package `onnx`, and a graph of 2 GB should not be parsed to find
a few names: the file is mapped, and only messages that can hold a tensor are entered.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

__all__ = ["external_files"]

# onnx.proto: message -> {number of a field: its message}, for all that leads to a tensor's files.
_INSIDE = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
_KEY, _VALUE = 1, 2  # fields of StringStringEntryProto
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types of protobuf


def external_files(graph: Path) -> set[str]:
    """The locations of a graph's external data, as they are written in it: mostly file names.

    Raises ValueError if the file is not an ONNX graph, OSError if it cannot be read.
    """
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found, waiting = set(), [("ModelProto", 0, len(data))]
        while waiting:
            message, *span = waiting.pop()
            fields = list(_fields(data, *span))
            if message == "StringStringEntryProto":
                if any(data[at:end] == b"location" for number, at, end in fields if number == _KEY):
                    places = (data[at:end] for number, at, end in fields if number == _VALUE)
                    found |= {place.decode(errors="replace") for place in places}
                continue
            inside = _INSIDE[message]
            waiting += [(inside[number], at, end) for number, at, end in fields if number in inside]
    return found


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field of a message that is itself bytes or a message."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _BYTES:
            size, at = _varint(data, at, end)
            yield number, at, at + size
            at += size
        else:
            raise ValueError("it is not an ONNX graph")
    if at != end:
        raise ValueError("it is cut off")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of variable length at `at`, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:  # 64 bits, 7 in each byte
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("it is cut off")
