"""What holds for the tests of this folder: what they play is not counted as covered.

They play thousands of schedules, to find what is wrong and not to reach lines; counting
takes four times as long as playing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_is_counted_as_covered() -> Iterator[None]:
    """Without the tracer of whoever measures coverage."""
    tracer = sys.gettrace()
    try:
        sys.settrace(None)
        yield
    finally:
        sys.settrace(tracer)
