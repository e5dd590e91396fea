"""Atomic file writing: to a temporary file in the same folder, synced, then renamed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edge.errors import StorageError
from edge.files.reading import opened

__all__ = [
    "alone",
    "atomic",
    "check_target",
    "digest",
    "drop_unread",
    "make_folder",
    "meant_for",
    "write_bytes",
    "writing",
]


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an OSError about writing to `place` into a `StorageError` with a hint."""
    try:
        yield
    except StorageError:
        raise
    except PermissionError as error:
        raise StorageError(
            f"cannot write {place} ({error.strerror})",
            "check its owner, or write somewhere else",
        ) from error
    except IsADirectoryError as error:
        raise StorageError(
            f"cannot write {place} ({error.strerror})", f"name a file in it: {place / 'NAME'}"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(
            f"cannot write {place} ({error.strerror})",
            f"name a file in a folder that exists, or: mkdir -p {place.parent}",
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(
                f"cannot write {place} ({error.strerror})", "give it a shorter name"
            ) from error
        raise StorageError(
            f"cannot write {place} ({error.strerror or error})",
            "free some space (rm -r engines/.cache) or write somewhere else",
        ) from error


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `target`; on success sync it and rename it.

    A link is followed; a device or a pipe is written to, never replaced. The permissions are those
    of the umask, even if the file existed before. Raises `StorageError` if the disk is full or the
    folder is not writable.
    """
    with writing(target):
        if _is_special(target):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / target.name
                with (Path(folder) / target.name).open("rb") as made, target.open("ab") as file:
                    shutil.copyfileobj(made, file)
            return
        target = target.resolve()
        scratch = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        # Not by `tempfile`, whose files only this user may read: the umask decides.
        scratch.touch(exist_ok=False)
        try:
            yield scratch
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())
            scratch.replace(target)
        finally:
            with suppress(FileNotFoundError):
                scratch.unlink()


def meant_for(name: str) -> str:
    """The name of the target of a temporary file of `atomic`; "" for any other name.

    A process that was killed leaves such a file.
    """
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}", name, re.S)
    return found[1] if found else ""


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file atomically. Raises `StorageError`."""
    with atomic(target) as scratch:
        scratch.write_bytes(data)


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents, and check that it is writable. Raises `StorageError`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".writable-"):
            pass
    return folder


def check_target(target: Path) -> None:
    """Check before the work that a file can be written. Raises `StorageError`."""
    with writing(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if _is_special(target):
            return
        target = target.resolve()
        with tempfile.TemporaryFile(dir=target.parent, prefix=".writable-"):
            pass


def _is_special(target: Path) -> bool:
    """Whether it is a device, a pipe, or an open file descriptor of this process."""
    if str(target).startswith(("/dev/std", "/dev/fd/")):
        return True
    if str(target).startswith("/proc/") and target.parent.name == "fd":
        return True
    return target.exists() and not target.is_file() and not target.is_dir()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a folder or a lock file, which is created.

    The lock ends with the process, however it ends. Raises `StorageError` if another process holds
    it.
    """
    with writing(path):
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"another vit-edge process is using {path.name.removesuffix('.lock')}",
                "wait until it has finished",
            ) from None
        yield
    finally:
        os.close(handle)


def drop_unread(stream: IO[str]) -> None:
    """Discard the buffered output of a stream, or Python would report an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def digest(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal. Raises OSError."""
    result = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()
