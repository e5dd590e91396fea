"""What the tests of sources share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def frozen_garbage() -> None:
    """Keep what other modules imported out of `gc.collect`, which these tests call often.

    With torch in the process each call would take a second.
    """
    gc.collect()
    gc.freeze()
