"""A sample of the lines at which an exception may strike; `make interrupts` has all of them."""

from __future__ import annotations

import pytest

from robustness.samples import SECONDS, play_sample
from robustness.scenarios import KINDS

pytestmark = pytest.mark.slow

STRIDE = 797
"""One line of so many: 10 to 120 interrupts for each kind of bus."""


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_at_any_line_leaves_the_bus_usable_and_every_outcome_true(kind: str) -> None:
    play_sample("interrupts", "--kind", kind, "--stride", str(STRIDE), "--most", "5")
