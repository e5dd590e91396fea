"""The cache of build stages in `engines/.cache`: files are used only if their SHA-256 matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edge.engine.external_data import external_files
from edge.errors import EdgeError
from edge.files.reading import read_text
from edge.files.storage import digest, write_bytes

__all__ = ["keep", "kept"]

T = TypeVar("T")


def keep(files: Sequence[Path]) -> None:
    """Write the SHA-256 of a stage's files beside the first one, in `sha256sum --check` format.

    Raises `StorageError`.
    """
    lines = [f"{digest(path)}  {path.name}\n" for path in files]
    write_bytes(_checksums(files[0]), "".join(lines).encode())


def kept(path: Path, read: Callable[[Path], T], warn: Callable[[str], None]) -> T | None:
    """What `read` returns for the stage whose first file is `path`; None if it must run again.

    The note beside it must list this very file, and every listed file must be unchanged.

    read: raises ValueError or an `EdgeError` for content that does not fit, such as another
    graph's. warn: called with a message when a file is damaged, does not fit, or cannot be read.
    """
    try:
        lines = read_text(_checksums(path)).splitlines()
        entries = [line.split("  ", 1) for line in lines]
        names = [name for _, name in entries]
        if names[:1] != [path.name] or any(Path(name).name != name for name in names):
            warn(f"{_checksums(path)} is not a note of {path.name}: the stage runs again")
        elif any(digest(path.with_name(name)) != sha256 for sha256, name in entries):
            warn(f"{path} is damaged: the stage runs again")
        elif path.suffix == ".onnx" and not external_files(path) <= set(names):
            warn(f"{_checksums(path)} does not list its weights: the stage runs again")
        else:
            return read(path)
    except FileNotFoundError:
        if path.exists():
            warn(f"{path} may be incomplete (no checksum): the stage runs again")
    except EdgeError as error:
        warn(f"{path} does not fit ({error.problem}): the stage runs again")
    except (OSError, ValueError, RecursionError) as error:
        warn(f"{path} cannot be read ({error}): the stage runs again")
    return None


def _checksums(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
