"""The ends of a client's requests over a broker, and what each of them says about whether the request ran.

A request ends because the broker does not take it, in a reply, or with its link.  A reply is an answer,
an error that the server tells, or a dead letter: the request itself, which the broker has dropped.  What
becomes of those that are open when a link ends is up to `client_link`, which knows what has left.

Nothing is sent here, and nothing is remembered.
"""

from __future__ import annotations

from typing import Final

from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.message import Answer, DeadLetter, Failure
from ratchet.bus._broker.topology import DEAD_REDELIVER
from ratchet.bus._core.faults import LAST_WORDS
from ratchet.bus._core.outgoing import ENDED, EXPIRED, OutgoingRequest
from ratchet.bus.codecs import body_of
from ratchet.errors import Abandoned, MessageTooLarge, Outcome, Rejected

# From this version on a request may go back to its queue, and its dead letter not say so.
_UNCOUNTED_RETURNS: Final = (4, 0)


def end_refused(transaction: OutgoingRequest) -> None:
    """The broker did not take it."""
    name = transaction.route.server_name
    text = f"the broker refused it: the queue is full, or has no leader ({name})"
    transaction.fail(Rejected(text), moves=False)


def end_returned(transaction: OutgoingRequest, returned: Returned) -> None:
    """No queue took it."""
    name = transaction.route.server_name
    text = f"there is no such service: {returned.code} {returned.text} ({name})"
    transaction.fail(Rejected(text), moves=False)


def too_large(delivery: Delivery, limit: int, name: str) -> MessageTooLarge:
    """The error of a request whose answer is over the client's limit."""
    text = f"a response of {delivery.size} bytes is over the limit of {limit} ({name})"
    return MessageTooLarge(text, outcome=Outcome.RAN)


def end_by_reply(
    transaction: OutgoingRequest,
    reply: Answer | Failure | DeadLetter,
    exchange: str,
    version: tuple[int, ...],
) -> None:
    """A reply to it has come, by an exchange of a broker of this version; does nothing if it has ended."""
    # One that has ended was interrupted before it was taken out.
    if transaction.state in ENDED:
        return
    if isinstance(reply, Answer):
        _end_answered(transaction, reply)
    elif isinstance(reply, Failure):
        transaction.fail_at_server(reply.reason, reply.texts, reply.outcome)
    else:
        returns = exchange == DEAD_REDELIVER or version >= _UNCOUNTED_RETURNS
        _end_dead(transaction, reply, returns)


def is_late(reply: Answer | Failure | DeadLetter) -> bool:
    """Whether a reply to no open request is an answer that came too late."""
    # A last word on a request that ended here is not, and neither is a dead letter.
    return isinstance(reply, Answer) or (isinstance(reply, Failure) and reply.reason not in LAST_WORDS)


def _end_answered(transaction: OutgoingRequest, answer: Answer) -> None:
    if transaction.state is EXPIRED:
        transaction.route.counters.dropped_late += 1
        transaction.time_out(Outcome.RAN)
    else:
        # Without a function that decodes, the body is the response.
        transaction.succeed(body_of(answer.parts) if transaction.decode is None else answer.parts)


def _end_dead(transaction: OutgoingRequest, letter: DeadLetter, returns: bool) -> None:
    """The broker has dropped it; with `returns`, it may have gone back to its queue before, uncounted."""
    name = transaction.route.server_name
    match letter.reason:
        case "expired":
            uncertain = letter.delivered or (letter.delivered is None and returns)
            transaction.time_out(Outcome.UNKNOWN if uncertain else Outcome.NOT_RUN)
        case "rejected":
            text = f"the request is over the server's limits ({name})"
            transaction.fail(MessageTooLarge(text, outcome=Outcome.NOT_RUN), moves=False)
        case "delivery_limit":
            text = f"the server that had the request is gone ({name})"
            transaction.fail(Abandoned(text, outcome=Outcome.UNKNOWN), moves=False)
        case other:
            # The queue was given other arguments by hand, and may drop what a server has had.
            text = f"the broker dropped the request: {other} ({name})"
            transaction.fail(Abandoned(text, outcome=Outcome.UNKNOWN), moves=False)
