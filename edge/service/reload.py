"""What SIGHUP does to a run: its file is read anew, and only cameras that changed are touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.run.config import Config
from edge.run.scheduler import Control
from edge.service.config import diff, load, merge
from edge.sources.camera import Camera
from edge.sources.feeds import Feed
from edge.sources.uris import redact_text

__all__ = ["Reload"]


class Reload:
    """A run's configuration while it goes on.

    path     of its file
    given    what the command line says on top, as for `merge`
    config   what the run began with; then what it is
    control  of the loop
    feed     makes of a camera what the loop plays
    say      is told what changed
    warn     is told why nothing did
    """

    def __init__(
        self,
        path: Path,
        given: Mapping[str, Any],
        config: Config,
        control: Control,
        feed: Callable[[Camera], Feed],
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        self._path, self._given, self.config = path, given, config
        self._control, self._feed = control, feed
        self._info, self._warn = info, warn

    def __call__(self) -> None:
        """Read the file anew. One with a fault in it changes nothing at all."""
        try:
            wanted = merge(load(self._path, self._given), self._given)
            change = diff(self.config, wanted)
            feeds = [self._feed(camera) for camera in change.added]
        except EdgeError as error:
            self._warn(f"{error}; until then all stays as it is")
            return
        except Exception as error:  # of a library, the system: no file stops cameras that play
            said = redact_text(repr(error))
            self._warn(f"{self._path} cannot be used ({said}); until then all stays as it is")
            return
        for camera in change.removed:
            self._control.remove(camera.name)
        for feed in feeds:
            self._control.add(feed)
        # What needs a restart is still as it was: the next reload says so again.
        self.config = replace(self.config, cameras=wanted.cameras)
        self._info(
            f"{self._path}: {len(change.removed)} cameras taken out, {len(feeds)} put in, "
            f"{len(change.unchanged)} play on"
        )
        if change.restart:
            self._warn(
                f"{self._path}: {', '.join(change.restart)} can only be changed by a restart"
            )
