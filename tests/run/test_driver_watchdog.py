"""DriverWatchdog to a driver: how long each may take, and whose failure its bug is."""

from __future__ import annotations

import pytest

from edge.errors import BackendError, SourceError
from edge.run.driver_watchdog import CALL_TIMEOUT, DriverWatchdog


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def calls(now: list[float]) -> DriverWatchdog:
    return DriverWatchdog("door", lambda: now[0])


def test_a_call_hangs_long_after_it_should_have_returned(
    calls: DriverWatchdog, now: list[float]
) -> None:
    with calls.call(within=20.0):
        now[0] += 20.0 + CALL_TIMEOUT
        assert calls.overdue is None
        now[0] += 1.0
        assert str(calls.overdue).startswith("door hangs in its driver")
    assert calls.overdue is None


def test_between_two_calls_nothing_hangs(calls: DriverWatchdog, now: list[float]) -> None:
    with calls.call():
        pass
    now[0] += 1e6
    assert calls.overdue is None


def test_one_that_was_told_to_stop_need_not_wait(calls: DriverWatchdog, now: list[float]) -> None:
    with calls.call(within=1e6):
        calls.expect_return()
        now[0] += CALL_TIMEOUT + 1.0
        assert calls.overdue is not None


def test_a_call_that_fails_is_over(calls: DriverWatchdog, now: list[float]) -> None:
    with pytest.raises(SourceError, match=r"door fails \(KeyError: 1\)"), calls.call():
        raise KeyError(1)
    with pytest.raises(BackendError), calls.call():
        raise BackendError("the GPU is gone", "restart")
    now[0] += 1e6
    assert calls.overdue is None
