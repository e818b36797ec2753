"""Decoding a request that a thread has claimed.

The codec is the user's code: it may block, raise, or let the client give up meanwhile.
"""

from __future__ import annotations

import logging
from typing import NoReturn

import gevent
from greenlet import GreenletExit, getcurrent

from ratchet._log import bus_logger, log_error
from ratchet.bus._core.address import format_address
from ratchet.bus._core.faults import Reason, error_texts
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_requests import Interrupted
from ratchet.bus._core.incoming_states import TAKEN


class Undecoded:
    """Stands for a request whose codec failed, where somebody is to see that.

    Attributes:
        error: what the codec raised; None once that has been seen.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def fail(self, request: object, transaction: object) -> NoReturn:
        """Raise the codec's error, in place of a handler of the request."""
        assert self.error is not None
        raise self.error


def decode_claimed(incoming: IncomingRequest, tells_failure: bool = False) -> bool:
    """Decode the message of a claimed request; may block.  False if it is not to be handled after all.

    A codec that blocks is interrupted when the client gives up.  If it fails, the request is
    refused, unless the caller `tells_failure`: then `Undecoded` takes the message's place.
    """
    requests = incoming.requests
    assert requests.decode is not None
    try:
        # First, or a client that gives up right now would find nobody to interrupt.
        incoming.handler = getcurrent()
        incoming.message = requests.decode(incoming.message, incoming.route.peer)
    except Interrupted as interrupt:
        if interrupt.args[0] is not incoming:
            raise
    except (KeyboardInterrupt, GreenletExit, gevent.Timeout):
        raise
    except BaseException as error:
        if tells_failure and incoming.state is TAKEN:
            incoming.message = Undecoded(error)
        else:
            refuse_undecoded(incoming, error)
    finally:
        incoming.handler = None
        requests.to_interrupt.pop(incoming, None)
    # The client may have given up meanwhile.
    return incoming.state is TAKEN


def refuse_undecoded(incoming: IncomingRequest, error: BaseException) -> None:
    """Answer a request whose codec failed with that error, and log it."""
    incoming.refuse(Reason.NOT_DECODED, error_texts(error))
    log_error(
        bus_logger,
        logging.WARNING,
        "a request of %s could not be decoded",
        "the local bus" if incoming.route.peer is None else format_address(incoming.route.peer),
        error=error,
    )
