"""The complete `edge` command: importing this module registers every command on `app`."""

from __future__ import annotations

from edge.cli import build, engine, run
from edge.cli.app import app

__all__ = ["app", "build", "engine", "run"]
