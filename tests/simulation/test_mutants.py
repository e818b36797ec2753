"""Planted bugs that are found early; `make sim ARGS=--mutants` looks for all of them."""

from __future__ import annotations

import pytest

from simulation.mutants import MUTANTS
from simulation.runner import first_failure

# Where methods of compiled classes are replaced, nobody calls what takes their place.
pytestmark = [pytest.mark.timeout(120), pytest.mark.uncounted, pytest.mark.pure]

EARLY = 100
"""Seeds within which these are found."""

FOUND_LATER = {
    "casts_uncounted",
    "cancelled_stays_queued",
    "deadline_ignored",
    "no_linger",
    "end_uncounted",
    "turn_kept",
    # Only a client that does not read is not read from in the middle of what it has sent.
    "lost_backlog",
    # What is interrupted is settled, and a connection without its place closed then.
    "goes_on",
    # What was read and not let in is refused when the next request ends.
    "drain_forgets",
}
"""Planted bugs that take more seeds, or that something else makes good."""


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in FOUND_LATER])
def test_a_planted_bug_is_found(name: str) -> None:
    _, seed, _ = first_failure(name, EARLY)
    assert seed is not None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_taken_out_again(name: str) -> None:
    mutant = MUTANTS[name]
    before = mutant.owner.__dict__[mutant.method]
    with mutant.planted():
        assert mutant.owner.__dict__[mutant.method] is not before
    assert mutant.owner.__dict__[mutant.method] is before
