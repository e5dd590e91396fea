"""The cache of build stages in `engines/.cache`: files are used only if their SHA-256 matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge.files.storage import digest, write_bytes

__all__ = ["is_kept", "keep"]


def keep(files: Sequence[Path]) -> None:
    """Write the SHA-256 of a stage's files beside the first one, in `sha256sum --check` format.

    Raises `StorageError`.
    """
    lines = [f"{digest(path)}  {path.name}\n" for path in files]
    write_bytes(_checksums(files[0]), "".join(lines).encode())


def is_kept(path: Path, warn: Callable[[str], None]) -> bool:
    """Whether the stage whose first file is `path` is in the cache with all its files intact.

    warn: called with a message when the files are damaged or cannot be read.
    """
    try:
        lines = _checksums(path).read_text().splitlines()
        entries = [line.split("  ", 1) for line in lines]
        if entries and all(digest(path.with_name(name)) == sha256 for sha256, name in entries):
            return True
        warn(f"{path} is damaged: the stage runs again")
    except FileNotFoundError:
        if path.exists():
            warn(f"{path} may be incomplete (no checksum): the stage runs again")
    except (OSError, ValueError) as error:
        warn(f"{path} cannot be read ({error}): the stage runs again")
    return False


def _checksums(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
