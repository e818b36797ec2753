"""The states of a request at its server, and what may happen in each.

`incoming` makes the transitions, and nothing else does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.IntEnum):
    """The state of a request on the server's side."""

    QUEUED = 1
    """It waits for a thread."""
    TAKEN = 2
    """A thread has it."""
    ANSWERING = 3
    """The thread's answer is being made and handed over."""
    ANSWERED = 4
    """It has its answer, which may be an error of the bus itself."""
    CANCELLED = 5
    """Its client gave up, and wants no answer."""
    LATE = 6
    """It was answered after its client had given up."""


class Event(enum.IntEnum):
    """An event in the life of a request."""

    CLAIM = 1
    """A thread takes it from the inbox."""
    ANSWER = 2
    """The thread begins to answer it."""
    HAND_OVER = 3
    """The answer is on its way."""
    TAKE_BACK = 4
    """The answer could not be made."""
    FAIL = 5
    """An error is on its way, of the handler or of the bus."""
    CANCEL = 6
    """The client gives up."""


# Module names, because an enum's attribute takes three times as long to read.
QUEUED, TAKEN, ANSWERING, ANSWERED, CANCELLED, LATE = State
CLAIM, ANSWER, HAND_OVER, TAKE_BACK, FAIL, CANCEL = Event

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (QUEUED, CLAIM): TAKEN,
    (QUEUED, FAIL): ANSWERED,
    (QUEUED, CANCEL): CANCELLED,
    (TAKEN, ANSWER): ANSWERING,
    (TAKEN, FAIL): ANSWERED,
    (TAKEN, CANCEL): CANCELLED,
    (ANSWERING, HAND_OVER): ANSWERED,
    (ANSWERING, TAKE_BACK): TAKEN,
    (ANSWERING, CANCEL): CANCELLED,
    (CANCELLED, ANSWER): LATE,
}
"""Every event that may come in each state, and the state that it leads to; no other may come."""

# Looked up beforehand: each exchange comes by, and a look-up compares tuples, which fails
# where the stack is at its end; a step back must not.
CLAIMED: Final = TRANSITIONS[QUEUED, CLAIM]
BEING_ANSWERED: Final = TRANSITIONS[TAKEN, ANSWER]
HANDED_OVER: Final = TRANSITIONS[ANSWERING, HAND_OVER]
TAKEN_BACK: Final = TRANSITIONS[ANSWERING, TAKE_BACK]

# Where it has not ended.
UNENDED: Final = (QUEUED, TAKEN, ANSWERING)
# Where the thread that has it is still to answer, even if that is in vain.
UNANSWERED: Final = (TAKEN, CANCELLED)
