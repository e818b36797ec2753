"""A sample of the lines at which a signal handler may close a bus; each time another one."""

from __future__ import annotations

import random
import re

import pytest

from robustness.samples import SECONDS, play_sample

pytestmark = pytest.mark.slow

EVERY = 23


@pytest.mark.timeout(SECONDS + 10)
def test_a_bus_that_a_signal_handler_closes_at_any_line_lets_every_call_end() -> None:
    every, offset = str(EVERY), str(random.randint(1, EVERY))
    printed = play_sample("closing_handlers", "--every", every, "--offset", offset)
    runs = re.search(r"^(\d+) runs, 0 failed$", printed, re.M)
    assert runs, printed
    assert int(runs[1]) > 100
