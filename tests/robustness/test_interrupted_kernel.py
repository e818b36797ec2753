"""An exception at every line of the scheduler: a sample of the sweep."""

from __future__ import annotations

import random
import re

import pytest

from robustness.samples import SECONDS, play_sample

pytestmark = pytest.mark.slow

EVERY = 59
"""Which part of the lines is taken: each time another one, so that in the end it is all of them."""


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 10)
def test_an_exception_at_any_line_leaves_the_scheduler_usable_and_nothing_behind() -> None:
    every, offset = str(EVERY), str(random.randint(1, EVERY))
    printed = play_sample("interrupted_kernel", "--every", every, "--offset", offset)
    thrown = re.search(r"^(\d+) exceptions thrown, 0 did not come out, 0 did harm$", printed, re.M)
    assert thrown, printed
    assert int(thrown[1]) > 150
