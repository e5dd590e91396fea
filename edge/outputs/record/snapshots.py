"""Pictures of what matters: when a rule fires, the labelled frame and all that is known of it."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from edge.errors import EdgeError, SourceError
from edge.files.storage import make_folder, meant_for, write_bytes, writing
from edge.outputs.json_lines import as_json
from edge.outputs.preview import annotate, caption_lines
from edge.outputs.record.fault_log import FaultLog
from edge.outputs.record.retention import (
    check_free_space,
    file_name,
    time_order,
    timestamp,
    unused_path,
)
from edge.outputs.record.rules import Rule, RuleState
from edge.outputs.record.worker import Worker
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition
from edge.sources.frame import Frame

__all__ = ["Snapshots"]

_ROOM = 4  # pictures that wait for the disk
_PATIENCE = 1.0  # seconds for those at the end of a run: systemd waits ten for all of it
_QUALITY = 90
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-.+-.+\.(jpg|json)")


@dataclass(frozen=True, eq=False)
class _Event:
    """A result on which rules fired."""

    result: Result
    rules: tuple[str, ...]


class Snapshots(Sink):
    """Writes a JPEG and a JSON file of the same name whenever a rule fires.

    The name is `UTC-SOURCE-LABEL`. The JSON has the keys of `JsonLines`, and `rules` (those
    that fired) and `picture` (the JPEG's name); it is there before the JPEG is. A failure is said
    once and counted, and the next picture is tried.

    written  pictures on the disk
    lost     pictures that could not be written, or came faster than the disk takes them
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        folder: str | os.PathLike[str],
        warn: Callable[[str], None],
        *,
        keep: int | None = None,
    ):
        """warn: is told, on any thread, of pictures that are lost. keep: only the newest so many
        stay in the folder, which is this run's alone: what one that was killed left half-written
        is removed.

        Raises StorageError when the folder cannot be written.
        """
        self._folder = make_folder(Path(folder))
        _clear(self._folder)
        self._watches = [RuleState(rule) for rule in rules]
        self._warn = warn
        self._keep = keep
        self._newest: dict[str, None] = {}  # pictures of this run that are kept, by name, in order
        self._fault_log = FaultLog(warn)
        self.written = 0
        self._background = Worker("snapshots", self._write, _ROOM, _PATIENCE, warn)

    @property
    def lost(self) -> int:
        return self._background.lost + self._fault_log.count

    def write(self, result: Result) -> None:
        # A list: each watch must see each result.
        rules = [watch.rule.text for watch in self._watches if watch.fires(result)]
        if rules:
            event = _Event(replace(result, frame=_detached(result.frame)), tuple(rules))
            self._background.put("", event)

    def changed(self, transition: Transition) -> None:
        if transition.state != "playing":
            for watch in self._watches:
                watch.forget(transition.source)

    def close(self) -> None:
        self._background.close()
        if self.lost:
            self._warn(f"{self.lost} snapshots were lost, {self.written} written")

    def _write(self, event: _Event) -> None:
        try:
            check_free_space(self._folder)
            self._tidy(self._save(event))
        except EdgeError as error:
            self._fault_log.failed("", error, "snapshots are lost until then")
        else:
            self.written += 1
            self._fault_log.works("", "snapshots are written")

    def _save(self, event: _Event) -> str:
        """Write a picture and its facts; its name."""
        result, frame = event.result, event.result.frame
        _, label, _ = result.prediction.top(1)[0]
        shown = annotate(frame.pixels, caption_lines(result))
        encoded = io.BytesIO()
        Image.fromarray(shown).save(encoded, "JPEG", quality=_QUALITY)
        name = f"{timestamp(result.time)}-{file_name(frame.source)}-{file_name(label)}.jpg"
        picture = unused_path(self._folder / name)
        facts = {
            "rules": event.rules,
            "picture": picture.name,
            **json.loads(as_json(result)),
        }
        beside = picture.with_suffix(".json")
        write_bytes(beside, f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode())
        try:
            write_bytes(picture, encoded.getvalue())
        except EdgeError:
            with suppress(OSError):
                beside.unlink()
            raise
        return picture.name

    def _tidy(self, newest: str) -> None:
        """Remove the oldest pictures beyond those that are kept; other files stay.

        Names tell the order only of what was there before this run: the clock may have been set
        back since.
        """
        if self._keep is None:
            return
        self._newest.pop(newest, None)  # one of this name was removed
        self._newest[newest] = None
        with writing(self._folder):
            there = {path.name for path in self._folder.glob("*.jpg") if _OURS.fullmatch(path.name)}
            self._newest = {name: None for name in self._newest if name in there}
            before = sorted(there.difference(self._newest), key=time_order)
            for name in [*before, *self._newest][: -self._keep]:
                picture = self._folder / name
                picture.unlink(missing_ok=True)
                picture.with_suffix(".json").unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what a run that was killed left: halves of its files, and facts without a picture."""
    with writing(folder):
        for path in folder.iterdir():
            is_facts = path.suffix == ".json" and _OURS.fullmatch(path.name)
            alone = is_facts and not path.with_suffix(".jpg").exists()
            if alone or _OURS.fullmatch(meant_for(path.name)):
                with suppress(OSError):  # it does no harm
                    path.unlink()


def _detached(frame: Frame) -> Frame:
    """The frame in memory of its own: one that waits for a disk must hold no camera's buffer."""
    try:
        picture = frame.picture
    except SourceError:  # it is said where the picture would be drawn
        return frame
    planes = picture.planes
    if picture is frame.surface:
        planes = tuple(plane.copy() for plane in planes)
    return replace(frame, surface=Surface(picture.layout, planes), owner=None)
