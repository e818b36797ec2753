"""`local_bus.py`: its transcript is the same every time."""

from __future__ import annotations

import pytest

from examples.programs import output_of

pytestmark = pytest.mark.slow


def test_it_shows_an_answer_an_error_and_a_time_out() -> None:
    assert output_of("local_bus.py") == [
        "guest: orders soup",
        "cook:  starts on the soup",
        "guest: gets a plate of soup",
        "guest: orders pizza",
        "cook:  starts on the pizza",
        "guest: gets no pizza because of a KeyError",
        "guest: orders roast",
        "cook:  starts on the roast",
        "guest: leaves without roast and whether it was made is UNKNOWN",
        "answered: 1",
    ]
