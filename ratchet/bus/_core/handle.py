"""A request in the hands of a thread: it is received, and answered or handed to a handler.

What becomes of the request is decided in `incoming`.  When the last thread lets go of a
`ServerTransaction`, nobody can answer any more, and the client is told so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent

from ratchet import _native
from ratchet._death import after_death, held_by_dead
from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_error
from ratchet._wait import check_hub
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.decoding import decode_claimed
from ratchet.bus._core.faults import error_name
from ratchet.bus._core.inbox import Inbox
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_requests import Interrupted
from ratchet.bus._core.incoming_states import CANCELLED, LATE, UNANSWERED
from ratchet.bus._core.peer import Peer
from ratchet.bus._core.public_class import TypeParameters
from ratchet.bus.codecs import PeerAddress
from ratchet.errors import Outcome

Request = TypeVar("Request")
Response = TypeVar("Response")

# Where middleware calls the handler; above this module.
_HANDLER_CHAIN: Final = "ratchet.bus._core.handler_chain"
# Exceptions that end the block, the thread or the program, rather than answer.
_NO_ANSWER: Final = (Interrupted, GreenletExit, GeneratorExit, KeyboardInterrupt)
# A handler that is called is not a generator, whose end this could be.
_NO_ANSWER_OF_A_CALL: Final = (Interrupted, GreenletExit, KeyboardInterrupt)


class HeldRequest:
    """The field of a `ServerTransaction`: its first base is a class of C, without type parameters."""

    __slots__ = ("__weakref__", "_incoming")

    # None if it came to nothing, or belongs to another one.
    _incoming: IncomingRequest

    def __del__(self) -> None:
        try:
            incoming: IncomingRequest | None = self._incoming
        except AttributeError:
            # `recv_request` was interrupted before it had one.
            return
        # One that has ended is in flight only if an exception struck before it was forgotten.
        if incoming is not None and incoming in incoming.requests.in_flight:
            try:
                incoming.requests.drop(incoming)
            except BaseException:
                # From here it is only printed, and nobody has the request who would come by again.
                incoming.requests.drop(incoming)
                raise


class ServerTransaction(HeldRequest, TypeParameters[Request, Response]):
    """A request that came, and the way to answer it.

    As a context manager it answers when the block does not: an exception
    becomes the error response (logged once, and not raised further), leaving
    without an answer becomes `Abandoned`.  If the client gives up meanwhile,
    the thread is interrupted where it blocks, and goes on after the block.

    Dropping the last reference to one that is not answered abandons it.

    .. code-block:: python

        from ratchet import RemoteError, bus

        server, client = bus.new_local()
        asked = client.send_request(0)
        transaction, number = server.recv_request()
        with transaction:
            transaction.send_response(1 / number)
        try:
            asked.recv_response()
        except RemoteError as error:
            print(error)

    .. code-block:: text

        ZeroDivisionError: division by zero
    """

    __slots__ = ()

    # `receive` makes it without this, which would double the time.
    def __init__(self) -> None:
        raise TypeError("a ServerTransaction comes from recv_request(), and is not made by hand")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a transaction cannot be copied or pickled: it stands for one request")

    def __repr__(self) -> str:
        incoming = self._incoming
        peer = "" if incoming.route.peer is None else f" from {incoming.route.peer}"
        return f"<ServerTransaction at {id(self):#x}{peer}: {incoming.state.name.lower()}>"

    @property
    def request(self) -> Request:
        """The object that was sent."""
        return self._incoming.message  # type: ignore[no-any-return]

    @property
    def from_(self) -> PeerAddress:
        """The peer's address; over a broker the name of its queue; None on a local bus."""
        return self._incoming.route.peer

    @property
    def peer(self) -> Peer | None:
        """Who the peer is, or None where nobody vouches for that; found out when it is asked for.

        - A TLS client whose certificate the server has checked is a `PeerCertificate`.
        - The other end of a Unix socket is a `PeerProcess`, on Linux.
        - A local bus, TCP, and TLS without a client's certificate have None.

        A client that has gone meanwhile is still known, until its request has an answer.

        .. code-block:: python

            import os
            import tempfile

            from ratchet import Ratchet, bus

            def welcome(request, transaction):
                match transaction.peer:
                    case bus.PeerProcess(uid=uid) if uid == os.getuid():
                        return b"one of us"
                raise PermissionError("for this user alone")

            with tempfile.TemporaryDirectory() as folder, Ratchet() as kernel:
                with bus.listen(f"unix:{folder}/socket") as server:
                    kernel.attach_background(server.serve, welcome)
                    with bus.connect(server.address) as client:
                        print(client.call(b"who am I?", timeout=5))

        .. code-block:: text

            b'one of us'
        """
        return self._incoming.route.identify()

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata that the client sent along: a dict of strings, empty if it sent none."""
        return self._incoming.metadata

    @property
    def redelivered(self) -> bool:
        """Whether another server may have begun it before this one.

        Only over a broker, and only if `broker_server` was told to `redeliver`.
        """
        return self._incoming.route.was_redelivered(self._incoming)

    @property
    def remaining(self) -> float | None:
        """Seconds left of the client's timeout, not below 0; None if there is none."""
        return time_left(self._incoming.deadline)

    @property
    def cancelled(self) -> bool:
        """Whether the client gave up: cancelled, timed out, or went away."""
        return self._incoming.state in (CANCELLED, LATE)

    def send_response(self, response: Response) -> bool:
        """Answer the request.  Blocks while too much is unsent on the connection.

        Args:
            response: the object that the client is to receive.

        Returns:
            True if the answer was handed over, to the connection or to the client of a
            local bus; False if nobody waits for it (any more).

        Raises `AlreadyAnswered` the second time; and what `response_to_bus` raises,
        or `MessageTooLarge`: the client gets a `RemoteError` then.
        """
        incoming = self._incoming
        if _native.hub_here() is not incoming.requests.hub:
            check_hub(incoming.requests.hub, self)
        return incoming.respond(response)

    def send_error(self, error: BaseException, outcome: Outcome | str = Outcome.RAN) -> bool:
        """Answer with an error; the client's call raises it as `RemoteError`.

        Does not block.

        Args:
            error: what the client is to see of it is its type, message and traceback.
            outcome: whether the request ran, for the client's error: an `Outcome`, or its
                name.  A server that passes requests on to others says here what became of
                them.  What it could not send on did not run: `NOT_SENT` counts as `NOT_RUN`.

        Returns as `send_response` does.  Raises `AlreadyAnswered` the second time,
        `TypeError` for anything but an exception, and `ValueError` for another outcome.

        .. code-block:: python

            from ratchet import RemoteError, bus

            server, client = bus.new_local()
            asked = client.send_request("an order")
            transaction, request = server.recv_request()
            transaction.send_error(PermissionError("closed on Sundays"), outcome="NOT_RUN")
            try:
                asked.recv_response()
            except RemoteError as error:
                print(error)

        .. code-block:: text

            PermissionError: closed on Sundays; nothing was run
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"send_error needs an exception, not {error!r}")
        told = _told_outcome(outcome)
        incoming = self._incoming
        check_hub(incoming.requests.hub, self)
        return incoming.respond_error(error, told)

    def __enter__(self) -> ServerTransaction[Request, Response]:
        incoming = self._incoming
        if _native.hub_here() is not incoming.requests.hub:
            check_hub(incoming.requests.hub, self)
        handlings = incoming.handlings
        try:
            incoming.begin_handling(getcurrent())
            return self
        except BaseException:
            # Nobody would leave a block that was not entered.
            incoming.end_handling(handlings)
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        incoming = self._incoming
        if _native.hub_here() is not incoming.requests.hub:
            # The collector ends a forgotten generator in any OS thread.
            incoming.requests.leave_to_hub(self.__exit__, None, None, None)
            return False
        outer = incoming.handlings - 1
        try:
            incoming.end_handling(outer)
        except BaseException:
            # Nobody leaves the block again.
            incoming.end_handling(outer)
            raise
        if error_type is None:
            incoming.abandon()
            return False
        # The type is asked, not the error: its attributes may be anything.
        if issubclass(error_type, Interrupted) and error is not None and error.args[0] is incoming:
            return True
        _finish(incoming, None if issubclass(error_type, _NO_ANSWER) else error)
        if error is not None and issubclass(error_type, (Exception, SystemExit)):
            _log_raised(error)
            return True
        return False


def _told_outcome(outcome: object) -> Outcome | None:
    """The outcome that a client is told besides an error; None where that says it, because it ran."""
    for known in Outcome:
        if outcome == known:
            return {Outcome.RAN: None, Outcome.NOT_SENT: Outcome.NOT_RUN}.get(known, known)
    names = ", ".join(Outcome)
    raise ValueError(f"outcome must be one of {names}, not {outcome!r}")


Received: TypeAlias = tuple[ServerTransaction[Request, Response], Request]


def receive(
    inbox: Inbox, incoming: IncomingRequest, tells_failure: bool = False
) -> Received[Any, Any] | None:
    """Take a request whose turn it is; None if it is not to be handled after all.

    One whose codec failed is not, unless the caller `tells_failure`: see `decode_claimed`.
    """
    # Before the claim: a request that is claimed is always somebody's.
    transaction: ServerTransaction[Any, Any] = _native.new(ServerTransaction)
    transaction._incoming = incoming
    try:
        claimed = incoming.claim(inbox)
        inbox.drop(incoming, claimed)
        if not claimed:
            # It may be another thread's: an interrupt has left it in the inbox twice.
            transaction._incoming = None  # type: ignore[assignment]
        elif incoming.requests.decode is None or decode_claimed(incoming, tells_failure):
            if not tells_failure:
                return transaction, incoming.message
            # The error of a codec keeps this frame, which is to keep no transaction that is dropped.
            received = [(transaction, incoming.message)]
            del transaction
            return received.pop()
    except BaseException:
        try:
            incoming.abandon()
        finally:
            settle_soon(incoming.requests.hub)
        raise
    return None


def receive_many(inbox: Inbox, most: int, deadline: float | None) -> list[Received[Any, Any]]:
    """Take the next request, waiting for one if need be, and those that are there, up to `most` in all."""
    taken: list[Any] = []
    try:
        while len(taken) < most:
            incoming = inbox.present() if taken else inbox.first(time_left(deadline))
            if incoming is None:
                break
            # Under no name of its own, which whoever keeps an error would keep, too.
            taken.append(receive(inbox, incoming))
            if taken[-1] is None:
                taken.pop()
        return taken
    except BaseException:
        try:
            for received in taken:
                if received is not None:
                    received[0]._incoming.abandon()
        finally:
            if taken:
                settle_soon(get_hub())
        raise


def handle(
    received: Received[Request, Response] | None,
    handler: Callable[..., Response],
    with_transaction: bool,
    answer_aside: Callable[[ServerTransaction[Request, Response], Response], object],
) -> None:
    """Answer what was received, if anything, with what a handler returns or raises; for `serve`.

    Blocks as long as the handler does.  Where it would have to wait until the client
    reads, `answer_aside` has another thread send the response.
    """
    if received is None:
        return
    transaction, request = received
    incoming = transaction._incoming
    incoming.begin_handling(_native.current_thread())
    try:
        response = handler(request, transaction) if with_transaction else handler(request)
        if incoming.state in UNANSWERED:
            if incoming.one_way or incoming.route.in_process or incoming.route.is_writable(incoming):
                incoming.respond(response)
            else:
                answer_aside(transaction, response)
        else:
            incoming.abandon()
    except BaseException as error:
        incoming.end_handling(0)
        if not _finish_call(incoming, error, sys.exc_info()[2]):
            raise
    else:
        incoming.end_handling(0)


def _finish_call(incoming: IncomingRequest, error: BaseException, tb: TracebackType | None) -> bool:
    """Answer a request whose handler raised.  False if the error is to go on."""
    kind = type(error)
    if issubclass(kind, Interrupted) and error.args[0] is incoming:
        return True
    if tb is not None and _strikes(kind) and _in_our_code(tb):
        # Raised in place of the call of the handler: nobody knows whether that ran.
        incoming.abandon()
        ends_here = issubclass(kind, (Exception, SystemExit))
    else:
        # Whatever else it is, it is the handler's, and costs no worker.
        ends_here = not issubclass(kind, _NO_ANSWER_OF_A_CALL)
        _finish(incoming, error if ends_here else None)
    if ends_here:
        _log_raised(error)
    return ends_here


def _finish(incoming: IncomingRequest, error: BaseException | None) -> None:
    """Answer with an error, if there is one and no answer yet; otherwise abandon it, if it has none."""
    try:
        if error is not None and incoming.state in UNANSWERED:
            incoming.respond_error(error)
    finally:
        incoming.abandon()


def _log_raised(error: BaseException) -> None:
    log_error(
        bus_logger,
        logging.WARNING,
        "the handler of a request raised %s",
        error_name(type(error)),
        error=error,
    )


def _in_our_code(tb: TracebackType) -> bool:
    """Whether an error was raised in place of a call of the handler, or of middleware."""
    innermost = tb
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is tb or innermost.tb_frame.f_globals.get("__name__") == _HANDLER_CHAIN


def _strikes(kind: type[BaseException]) -> bool:
    """Whether an error of this kind may be raised at any line, whatever that does."""
    return not issubclass(kind, Exception) or issubclass(kind, (RecursionError, MemoryError))


def abandon_held(death: BaseException) -> None:
    """Hub callback: abandon what a thread that died of `death` had taken, and nobody else has.

    The error's traceback keeps the thread's variables, and with them its transactions.
    """
    for transaction in held_by_dead(death, ServerTransaction):
        incoming = transaction._incoming
        try:
            incoming.abandon()
        except BaseException:
            # Whoever keeps the thread keeps the transaction, and nobody would come by again.
            incoming.requests.drop(incoming)
            raise


after_death(abandon_held)
