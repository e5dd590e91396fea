"""What earlier builds left in `engines/.cache`: believed only while it is what was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge.files.storage import digest, write_bytes

__all__ = ["is_kept", "keep"]


def keep(files: Sequence[Path]) -> None:
    """Note the SHA-256 of a stage's files beside the first, as `sha256sum --check` reads it.

    Raises `StorageError`.
    """
    lines = [f"{digest(path)}  {path.name}\n" for path in files]
    write_bytes(_note(files[0]), "".join(lines).encode())


def is_kept(path: Path, warn: Callable[[str], None]) -> bool:
    """Whether the stage whose first file is `path` left it whole; `warn` hears of a damaged one."""
    try:
        lines = _note(path).read_text().splitlines()
        entries = [line.split("  ", 1) for line in lines]
        if entries and all(digest(path.with_name(name)) == known for known, name in entries):
            return True
        warn(f"{path} is not what was written there: made again")
    except FileNotFoundError:
        if path.exists():
            warn(f"{path} is not known to be whole: made again")
    except (OSError, ValueError) as error:
        warn(f"{path} cannot be read ({error}): made again")
    return False


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
