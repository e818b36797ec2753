"""A short form of the soak test; `make soak` runs the long one."""

from __future__ import annotations

import logging

import pytest

from robustness.soak import soak

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_clients_that_come_and_go_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "ratchet")
    run = soak(seconds=2.0, warm_up=1.0, seed=1)
    assert run.endings["answered"] > 100
    assert {"bus_timeout", "cancelled", "killed", "one way"} <= run.endings.keys()
