"""What can be done under overload is done in time, and the rest is refused unrun.

`python -m load` plays the whole grid; here are the loads that tell most for their time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from load.overload import Load, play

pytestmark = [pytest.mark.uncounted, pytest.mark.slow]

LOADS = [
    # The library learns and refuses the same way whatever the kind, and time-outs are kept by the
    # client's side of a local bus, but by the server's of a connection.
    Load("local", workers=1, handling=(0.01, 0.01), times=10),
    Load("tcp", workers=1, handling=(0.01, 0.01), times=2),
    Load("tcp", workers=1, handling=(0.01, 0.01), times=5),
    Load("tcp", workers=1, handling=(0.01, 0.01), times=10),
    # Turns between connections, and few requests in each.
    Load("tcp", workers=1, handling=(0.01, 0.01), times=10, connections=8),
    Load("tcp", workers=1, handling=(0.01, 0.01), times=10, connections=100),
    # Nobody knows how long the next one takes.
    Load("local", workers=1, handling=(0.001, 0.05), times=5, seconds=5.0),
    Load("tcp", workers=1, handling=(0.001, 0.05), times=2, seconds=10.0),
    Load("tcp", workers=1, handling=(0.001, 0.05), times=10, connections=8, seconds=5.0),
    # Several end at once.
    Load("local", workers=16, handling=(0.001, 0.05), times=5, seconds=1.0),
    Load("tcp", workers=16, handling=(0.001, 0.05), times=2, connections=8, seconds=1.0),
    # Hundreds of requests fit into a time-out.
    Load("local", workers=1, handling=(0.001, 0.001), times=5, seconds=0.5),
    # In step, so that every request comes at the same moment of another's handling.
    Load("local", workers=1, handling=(0.01, 0.01), times=2, regular=True),
]


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_what_can_be_done_is_done_in_time_and_the_rest_is_refused_unrun(load: Load) -> None:
    assert play(load).missed == []


@pytest.mark.parametrize("kind", ["local", "tcp"])
def test_a_server_that_is_not_overloaded_refuses_nothing(kind: str) -> None:
    # At half of what it can do, no queue grows near the time-out.
    result = play(Load(kind, workers=16, handling=(0.001, 0.05), times=0.5))
    assert result.answered_share > 0.98
    assert result.in_vain == 0
    assert not result.outcomes


@pytest.mark.parametrize("kind", ["local", "tcp"])
def test_a_burst_that_can_be_done_in_time_is_done(kind: str) -> None:
    # 40 at once take 0.4 s of the 0.5 s there are; then nothing comes for as long.
    load = Load(kind, workers=1, handling=(0.01, 0.01), times=0.8, seconds=5.0)
    bursts = itertools.chain.from_iterable(itertools.repeat([0.5, *[0.0] * 39]))
    result = play(load, gaps=bursts)
    assert result.offered > 300
    assert not result.outcomes


@pytest.mark.parametrize("kind", ["local", "tcp"])
def test_handlers_that_hang_for_a_while_are_no_lasting_harm(kind: str) -> None:
    # Each of them takes longer than any client waits, so none of them ever answers.
    load = Load(kind, workers=4, handling=(0.001, 0.001), times=0.025, learning=5.0, seconds=3.0)
    result = play(load, handling_times=hanging(load.handling[0], begin=1.0, end=4.0))
    assert result.offered > 250
    assert result.answered_share > 0.98


def hanging(usual: float, begin: float, end: float) -> Iterator[float]:
    """Seconds that each request takes of a dependency that hangs, from one second to another."""
    began = time.monotonic()
    while True:
        passed = time.monotonic() - began
        yield end - passed if begin <= passed < end else usual
