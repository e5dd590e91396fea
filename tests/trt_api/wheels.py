"""NVIDIA's own Python bindings, each wheel a megabyte, over libraries that do nothing.

The bindings are one extension module. It asks three native libraries of gigabytes for a dozen C
functions, so a library that has those functions is enough to import it: with all its classes,
enums and docstrings, the signatures among them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "trt-bindings"
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"

# tensorrt-cu12-bindings on PyPI for x86-64: JetPack 6's version, JetPack 7's, a late 10.x, an 11.
# NVIDIA made no wheels of them for other Pythons from 3.10 on.
WHEELS = {
    "10.3.0": {
        "cp310": "1d6e4cf08ef1f54f6fd44a33cf6b253050af2fc6e9a1d92e40e1436a1d858eb0",
        "cp311": "59ace22d7f2ca1e9dcde2cb0cb5916912cb3cd5a9d72dd7852be0160d9b3a0ee",
        "cp312": "f5c2582aeaa7f5628d2c4d4148a701ebe97be78f7ff3b46a617f0ee0cb5460f2",
    },
    "10.13.3.9.post1": {
        "cp310": "189d1c2ed13fad19b1260d54efa2da2e4ecf1b44fa15dd038e2208721a05d992",
        "cp311": "85f5f17b879fb950fc09babf053f70b74e4e6aedbd14cc8ba9b83515978c8412",
        "cp312": "2cdedaf3e948b382af734950c0233f497fbaa886ce73641824798d03cc708436",
        "cp313": "9cca49b5eacad020c5eac5ac30325e12978f3e247553d510334967fc36b94585",
    },
    "10.16.1.11": {
        "cp310": "c1b6a156db4eab526360f5dba375e5c33e1275e3f36b0a7d375febb3db6202fc",
        "cp311": "150ef2b672487e29a8ea916353467c3e199994fb33589167e3641a928e243aa7",
        "cp312": "8e339335e7255b3fb3954eca61b4acbbdfcf7b28505bd711914519647ba310c8",
        "cp313": "f2a08cedfa48e300720e5bed070a45e390ea67dbcf475ffce725d10e0a2b3ba7",
    },
    "11.4.0.106": {
        "cp310": "d9f927d7337c360c3947d99fc0db17c3b3b935e677237f0475c7b054f28d2540",
        "cp311": "e2ab48f316bbff6a7a44a30e94a9ceb0d2cf6645ff39feadecfa68d7cb7a94bf",
        "cp312": "6490518c9e072d57e0a815ad80b103596933efe776ffa61766ef31c25dbd8b39",
        "cp313": "37bba007c65325087db7409d4ab48e460b4be4abcf99cb3e8b6979642f33c521",
        "cp314": "2b002a7be7b5a76850a33625470103799d86c1531d26bd95daf0471a71c32d33",
    },
}


def environment(folder: Path) -> dict[str, str]:
    """What a process needs to import the bindings that `unpack` put into `folder`."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "LD_LIBRARY_PATH": str(folder),
    }


def unpack(version: str, folder: Path) -> None:
    """Put the package `tensorrt` of a version into `folder`, and the libraries that it loads."""
    with zipfile.ZipFile(wheel(version)) as archive:
        archive.extractall(folder)
    package = folder / "tensorrt"
    package.mkdir()
    # All that the package of this name has on PyPI; Debian's and JetPack's is the bindings itself.
    (package / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    # The bindings load what a package of this name brings, if it is installed.
    (folder / "tensorrt_libs.py").touch()
    stand_in(folder / "tensorrt_bindings" / "tensorrt.so", folder)


def wheel(version: str) -> Path:
    """The wheel for this Python, downloaded once. Raises `RuntimeError` if it cannot be had."""
    wanted = WHEELS[version][TAG]
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{version}-{TAG}.whl"
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not path.is_file() or sha256(path) != wanted:
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                found = download(version, Path(scratch))
                if sha256(found) != wanted:
                    raise RuntimeError(f"tensorrt-cu12-bindings {version} is not what it was")
                found.replace(path)
    return path


def download(version: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    wanted = ["--no-deps", "--only-binary=:all:", f"tensorrt-cu12-bindings=={version}"]
    done = subprocess.run([*pip, *wanted, "--dest", folder], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"tensorrt-cu12-bindings {version} cannot be downloaded, which these tests need once:\n"
            f"{done.stderr}"
        )
    return next(folder.glob("*.whl"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stand_in(extension: Path, folder: Path) -> None:
    """Make the libraries of NVIDIA's that an extension module needs; their functions return 0."""
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", extension))
    absent = [name for name in needed if name.startswith("libnv")]
    here = [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in needed if name not in absent)]
    undefined = re.findall(r"^ +U (\w+)", output("nm", "--dynamic", extension), re.M)
    names = [name for name in undefined if not any(hasattr(library, name) for library in here)]
    strange = [name for name in names if name.startswith("_Z")]
    if strange or not names or not absent:
        # A function that returns 0 stands in for no vtable: this test would have to grow.
        raise RuntimeError(f"{extension} needs {needed}, and of them {names}")
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in names)
    # One library is enough: the loader asks for files by name, not for what each of them has.
    made = folder / "libnothing.so"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", made]
    subprocess.run(command, input=source, text=True, check=True)
    for name in absent:
        (folder / name).symlink_to(made.name)


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
