"""A sink that writes a snapshot, an image with a JSON file, whenever a rule fires."""

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

_QUEUE_SIZE = 4  # snapshots that wait for the disk
_CLOSE_TIMEOUT = 1.0  # seconds to write them when the run ends; systemd allows ten for everything
_QUALITY = 90
_SNAPSHOT_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-.+-.+\.(jpg|json)")


@dataclass(frozen=True, eq=False)
class _Event:
    """A result, and the rules that fired on it."""

    result: Result
    rules: tuple[str, ...]


class Snapshots(Sink):
    """Writes a JPEG and a JSON file of the same name whenever a rule fires.

    The name is `UTC-SOURCE-LABEL`. The JSON has the keys of `Lines`, and `rules` (those that
    fired) and `picture` (the JPEG's name); it is written before the JPEG. Repeated failures are
    reported once and counted; every snapshot is tried.

    written  number of snapshots on the disk
    lost     number of snapshots that could not be written, or that came faster than the disk
             takes them
    fired    called on the loop's thread with each result with which rules fired, and these rules
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        folder: str | os.PathLike[str],
        warn: Callable[[str], None],
        *,
        keep: int | None = None,
        caption: bool = True,
    ):
        """warn: called, from any thread, when snapshots are lost. keep: number of snapshots that
        stay in the folder; older ones are removed. The folder must belong to this run alone:
        incomplete files of a run that was killed are removed. caption: draw label and time below
        the frame.

        Raises StorageError when the folder cannot be written.
        """
        self._folder = make_folder(Path(folder))
        _remove_incomplete(self._folder)
        self._rule_states = [RuleState(rule) for rule in rules]
        self._warn = warn
        self._keep, self._caption = keep, caption
        self.fired: Callable[[Result, Sequence[str]], None] = lambda result, rules: None
        self._newest: dict[str, None] = {}  # names of this run's kept images, in order of time
        self._fault_log = FaultLog(warn)
        self.written = 0
        self._worker = Worker("snapshots", self._write, _QUEUE_SIZE, _CLOSE_TIMEOUT, warn)

    @property
    def lost(self) -> int:
        return self._worker.lost + self._fault_log.count

    def write(self, result: Result) -> None:
        # A list, not any(): each rule must see each result.
        rules = [state.rule.text for state in self._rule_states if state.fires(result)]
        if rules:
            self.fired(result, rules)
            event = _Event(replace(result, frame=_copy(result.frame)), tuple(rules))
            self._worker.put("", event)

    def changed(self, transition: Transition) -> None:
        if transition.state != "playing":
            for state in self._rule_states:
                state.forget(transition.source)

    def close(self) -> None:
        self._worker.close()
        if self.lost:
            self._warn(f"{self.lost} snapshots were lost, {self.written} written")

    def _write(self, event: _Event) -> None:
        try:
            check_free_space(self._folder)
            self._remove_oldest(self._save(event))
        except EdgeError as error:
            self._fault_log.failed("", error, "snapshots are lost until this is fixed")
        else:
            self.written += 1
            self._fault_log.works("", "snapshots are written")

    def _save(self, event: _Event) -> str:
        """Write the JSON and the JPEG; return the name of the JPEG."""
        result, frame = event.result, event.result.frame
        _, label, _ = result.prediction.top(1)[0]
        pixels = frame.pixels
        if self._caption:
            pixels = annotate(pixels, caption_lines(result))
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=_QUALITY)
        name = f"{timestamp(result.time)}-{file_name(frame.source)}-{file_name(label)}.jpg"
        path = unused_path(self._folder / name)
        facts = {
            "rules": event.rules,
            "picture": path.name,
            **json.loads(as_json(result)),
        }
        facts_path = path.with_suffix(".json")
        write_bytes(facts_path, f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode())
        try:
            write_bytes(path, encoded.getvalue())
        except EdgeError:
            with suppress(OSError):
                facts_path.unlink()
            raise
        return path.name

    def _remove_oldest(self, newest: str) -> None:
        """Remove the oldest snapshots beyond `keep`; other files stay.

        Snapshots of this run are ordered by when they were written, since the clock may have been
        set back; only those of earlier runs are ordered by name.
        """
        if self._keep is None:
            return
        self._newest.pop(newest, None)  # an earlier file of this name was removed
        self._newest[newest] = None
        with writing(self._folder):
            images = (path.name for path in self._folder.glob("*.jpg"))
            present = {name for name in images if _SNAPSHOT_NAME.fullmatch(name)}
            self._newest = {name: None for name in self._newest if name in present}
            of_earlier_runs = sorted(present.difference(self._newest), key=time_order)
            for name in [*of_earlier_runs, *self._newest][: -self._keep]:
                path = self._folder / name
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)


def _remove_incomplete(folder: Path) -> None:
    """Remove what a killed run left: temporary files, and JSON files without a JPEG."""
    with writing(folder):
        for path in folder.iterdir():
            is_facts = path.suffix == ".json" and _SNAPSHOT_NAME.fullmatch(path.name)
            without_image = is_facts and not path.with_suffix(".jpg").exists()
            if without_image or _SNAPSHOT_NAME.fullmatch(meant_for(path.name)):
                with suppress(OSError):  # a file that stays does no harm
                    path.unlink()


def _copy(frame: Frame) -> Frame:
    """A copy of the frame: one that waits for a disk must not hold its camera's buffer."""
    try:
        surface = frame.host_surface
    except SourceError:  # reported when the image is drawn
        return frame
    planes = surface.planes
    if surface is frame.surface:
        planes = tuple(plane.copy() for plane in planes)
    return replace(frame, surface=Surface(surface.layout, planes), owner=None)
