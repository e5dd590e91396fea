"""`Reload`: reads the configuration file again on SIGHUP and applies what has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.files.redaction import redact_text
from edge.run.config import Config
from edge.run.scheduler import Control
from edge.service.config import diff, load, merge
from edge.sources.camera import Camera
from edge.sources.feeds import Feed

__all__ = ["Reload"]


class Reload:
    """The configuration of a run while it goes on.

    path     the configuration file
    given    the values of the command line, as for `merge`
    config   the current configuration; at first that with which the run started
    control  adds and removes sources of the loop
    feed     makes the feed of a camera
    info     called with a line about what has changed
    warn     called with a line about why nothing has changed, or what needs a restart
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
        """Read the file again. A file with an error changes nothing at all."""
        try:
            wanted = merge(load(self._path, self._given), self._given)
            change = diff(self.config, wanted)
            feeds = [self._feed(camera) for camera in change.added]
        except EdgeError as error:
            self._warn(f"{error}; until then the run is unchanged")
            return
        except Exception as error:  # whatever it is, a bad file must not stop working cameras
            reason = redact_text(repr(error))
            self._warn(f"{self._path} cannot be used ({reason}); until then the run is unchanged")
            return
        for camera in change.removed:
            self._control.remove(camera.name)
        for feed in feeds:
            self._control.add(feed)
        # Keys that need a restart keep their old values, so that each reload reports them again.
        self.config = replace(self.config, cameras=wanted.cameras)
        self._info(
            f"{self._path}: {len(change.removed)} cameras removed, {len(feeds)} added, "
            f"{len(change.unchanged)} unchanged"
        )
        if change.restart:
            self._warn(
                f"{self._path}: {', '.join(change.restart)} can only be changed by a restart"
            )
