"""How a fault is tried: a run that was well before, and is well again after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from tests.chaos.command import PATIENCE, Run
from tests.chaos.measure import Fault, truth

__all__ = ["FPS", "Keep", "Times", "suffer", "watched"]

FPS = 30.0
Keep: TypeAlias = Callable[[Fault], None]  # see conftest.py
Times: TypeAlias = Callable[[int, int], int]


@contextmanager
def watched(
    fault: Fault,
    engine: Path,
    urls: Mapping[str, int],
    words: Sequence[object] = (),
    *,
    fps: float | Mapping[str, float] = FPS,
    before: Sequence[object] = (),
    env: Mapping[str, str] = MappingProxyType({}),
    patience: float = PATIENCE,
) -> Iterator[Run]:
    """`edge run` over these sources, url -> camera; its figures become the fault's.

    words: more options. fps: of these cameras, or of each source. before: what stands before the
    command. env: added to its environment. patience: seconds, at most, for the last picture of
    each.
    """
    sources = [word for url in urls for word in ("--source", url)]
    began = time.monotonic()
    with Run(engine, [*sources, *words], before, dict(env)) as run:
        for camera in urls.values():
            run.await_picture(began, camera)
        fault.needs.append(run.needs)
        yield run
        settled = time.monotonic()
        for camera in urls.values():
            run.await_picture(settled, camera, patience)
        fault.needs.append(run.needs)
    fault.exit, fault.truth = run.exit, truth(run.seen, urls, fps, fault.slack)


def suffer(
    fault: Fault,
    run: Run,
    url: str,
    strike: Callable[[], float],
    hint: Callable[[], float],
    *,
    down: float = 0.0,
    camera: int = 0,
) -> tuple[float, float]:
    """One strike, mended after `down` seconds: the seconds of both.

    A source that comes and goes all the time is not spoken of each time.
    """
    struck = strike()
    time.sleep(max(0.0, struck + down - time.monotonic()))
    returned = hint()
    fault.back.append(run.await_picture(returned, camera) - returned)
    said = run.said_after(struck, url, "trying again")
    if said is not None:
        fault.noticed.append(said - struck)
    return struck, returned
