"""Facts about the machine, versions and commit that each file of figures contains."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0]
    return {"cpu": cpu.strip(" \t:"), "cores": len(os.sched_getaffinity(0))}


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of packages, by their names on PyPI."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def commit() -> str:
    """The commit that is checked out, followed by "-dirty" if files were changed."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()


def put(measured: dict[str, Any], out: Path | None) -> None:
    """Print figures as JSON, and write them to `out` if it is given."""
    text = json.dumps(measured, indent=1)
    if out is not None:
        out.write_text(f"{text}\n")
    print(text)
