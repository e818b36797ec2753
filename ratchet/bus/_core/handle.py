"""What users hold of a request: the client's transaction, and the server's.

What becomes of a request is decided in `outgoing` and `incoming`.  When the last
thread lets go of a `ServerTransaction`, nobody can answer any more, and the client is
told so.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, TypeVar

from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet._death import after_death, held_by_dead
from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_error
from ratchet._wait import check_hub
from ratchet.bus._core.deadline import Scope, enter_scope, leave_scope, time_left
from ratchet.bus._core.faults import error_name
from ratchet.bus._core.incoming import (
    ANSWERED,
    ANSWERING,
    CANCELLED,
    LATE,
    TAKEN,
    IncomingRequest,
    Interrupted,
)
from ratchet.bus._core.outgoing import ENDED, SUCCEEDED, OutgoingRequest
from ratchet.bus.codecs import Address
from ratchet.errors import Cancelled

Request = TypeVar("Request")
Response = TypeVar("Response")

# What is no answer of a handler, but the end of its block, its thread or the program.
_NO_ANSWER: Final = (Interrupted, GreenletExit, GeneratorExit, KeyboardInterrupt)
# A handler that is called is no generator whose end this could be.
_NO_ANSWER_OF_A_CALL: Final = (Interrupted, GreenletExit, KeyboardInterrupt)


class ClientTransaction(OutgoingRequest[Request, Response]):
    """A request that was sent, and the response to come.

    Any number of threads may wait in `recv_response`; all get the same.

    Attributes:
        request: the object that was sent.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if self.state is SUCCEEDED:
            state = "answered"
        else:
            state = "waiting" if self.error is None else repr(self.error)
        return f"<{type(self).__name__} at {id(self):#x}: {state}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a transaction cannot be copied or pickled: it stands for one request")

    @property
    def done(self) -> bool:
        """Whether it has ended, by a response or an error."""
        return self.state in ENDED

    def recv_response(self, timeout: float | None = None) -> Response:
        """Wait for the response and return it; blocks.

        Later calls return, or raise, the same.

        Args:
            timeout: seconds of this wait, None for ever.  When they are over, the
                transaction lives on, and may be waited for again.

        Raises `BusTimeout` when the time is over, or the error in which the
        transaction ended: any of the `BusError` tree.  An error of
        `response_from_bus` comes out as it is; a later call decodes once more.

        .. code-block:: python

            from ratchet import BusTimeout, bus

            server, client = bus.new_local()
            transaction = client.send_request("question")
            try:
                transaction.recv_response(timeout=0.01)
            except BusTimeout:
                print("not yet:", transaction.done)
            server.recv_request()[0].send_response("answer")
            print(transaction.recv_response(), transaction.done)

        .. code-block:: text

            not yet: False
            answer True
        """
        if self.state not in ENDED:
            self.wait(timeout)
        elif get_hub() is not self.route.hub:
            check_hub(self.route.hub, self)
        if self.error is not None:
            # Each waiter its own copy: a traceback belongs to one thread.
            raise copy.copy(self.error) from self.error.__cause__
        return self.response()

    def cancel(self) -> None:
        """Give the request up; does not block.

        Whoever waits for the response gets `Cancelled`, and the server is told.
        Does nothing if the transaction has ended.

        .. code-block:: python

            from ratchet import Cancelled, bus

            server, client = bus.new_local()
            question = client.send_request("question")
            taken, request = server.recv_request()
            question.cancel()
            print(taken.cancelled, taken.send_response("too late"))
            try:
                question.recv_response()
            except Cancelled as error:
                print(repr(error))

        .. code-block:: text

            True False
            Cancelled('the request to the local bus was cancelled', outcome=UNKNOWN)
        """
        check_hub(self.route.hub, self)
        try:
            self._cancel()
        except BaseException:
            # It may be half given up, or given up and half forgotten: the hub does the rest.
            self.route.run_callback(self._cancel)
            settle_soon(self.route.hub)
            raise

    def _cancel(self) -> None:
        """Give it up; also a hub callback."""
        self.give_up(Cancelled, f"the request to {self.route.server_name} was cancelled")


class ServerTransaction(Generic[Request, Response]):
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

    # `recv_request` makes it without `__init__`, which would double the time, and sets
    # `_incoming`; the others begin as they are here.
    _incoming: IncomingRequest
    # Another thread is to answer it.
    _passed_on = False
    # The block does no more than call a handler.
    _by_call = False
    # The `with` blocks that threads are in: each with what ends its deadline.
    _entries: tuple[tuple[greenlet, Scope | None], ...] = ()

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
    def from_(self) -> Address:
        """The peer's address; None on a local bus."""
        return self._incoming.route.peer

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the client sent along: a dict of strings, empty if it sent none."""
        return self._incoming.metadata

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
            True if the answer was handed to the connection, False if nobody waits
            for it (any more).

        Raises `AlreadyAnswered` the second time; and what `response_to_bus` raises,
        or `MessageTooLarge`: the client gets a `RemoteError` then.
        """
        incoming = self._incoming
        if get_hub() is not incoming.requests.hub:
            check_hub(incoming.requests.hub, self)
        return incoming.respond(response)

    def send_error(self, error: BaseException) -> bool:
        """Answer with an error; the client's call raises it as `RemoteError`.

        Does not block.  Returns as `send_response` does.  Raises `AlreadyAnswered`
        the second time, and `TypeError` for anything but an exception.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"send_error needs an exception, not {error!r}")
        incoming = self._incoming
        check_hub(incoming.requests.hub, self)
        return incoming.respond_error(error)

    def __enter__(self) -> ServerTransaction[Request, Response]:
        incoming = self._incoming
        if get_hub() is not incoming.requests.hub:
            check_hub(incoming.requests.hub, self)
        current = getcurrent()
        scope = None
        try:
            if incoming.deadline is not None:
                scope = enter_scope(incoming.deadline)
            self._entries += ((current, scope),)
            incoming.begin_handling(current)
            return self
        except BaseException:
            leave_scope(scope)
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        # Whoever leaves leaves the block that was entered last: it may be another thread
        # than entered it, or a generator's end in any thread.
        incoming = self._incoming
        if get_hub() is not incoming.requests.hub:
            # The collector ends a forgotten generator in any OS thread.
            incoming.requests.leave_to_hub(self.__exit__, None, None, None)
            return False
        leave_scope(self._entries[-1][1])
        self._entries = self._entries[:-1]
        if self._entries:
            incoming.handler = self._entries[-1][0]
        else:
            incoming.end_handling()
        # The type is asked, not the error: its attributes may be anything.
        kind: type[Any] = type(None) if error_type is None else error_type
        if issubclass(kind, Interrupted) and error is not None and error.args[0] is incoming:
            return True
        # Raised in place of the call of a handler: nobody knows whether that ran.
        struck = self._by_call and tb is not None and tb.tb_next is None and _strikes(kind)
        no_answer = _NO_ANSWER_OF_A_CALL if self._by_call else _NO_ANSWER
        try:
            if struck:
                incoming.abandon()
            elif error is not None and not issubclass(kind, no_answer) and not self._answered:
                self.send_error(error)
        finally:
            if not self._passed_on:
                incoming.abandon()
        fails = issubclass(kind, (Exception, SystemExit))
        if self._by_call and not struck:
            # Whatever else it is, it is the handler's, and costs no worker.
            fails = not issubclass(kind, no_answer)
        if error is not None and fails:
            log_error(
                bus_logger,
                logging.WARNING,
                "the handler of a request raised %s",
                error_name(kind),
                error=error,
            )
            return True
        return False

    @property
    def _answered(self) -> bool:
        """Whether it has its answer, or is getting one right now."""
        return self._incoming.state in (ANSWERING, ANSWERED, LATE)

    def __del__(self) -> None:
        try:
            incoming = self._incoming
        except AttributeError:
            # `recv_request` was interrupted before it had one.
            return
        if incoming.state is TAKEN:
            incoming.requests.drop(incoming)


def handle(
    transaction: ServerTransaction[Request, Response],
    request: Request,
    handler: Callable[..., Response],
    with_transaction: bool,
    answer_aside: Callable[[ServerTransaction[Request, Response], Response], object],
) -> None:
    """Answer a request with what its handler returns or raises; for the workers of `serve`.

    Blocks as long as the handler does.  Where it would have to wait until the client
    reads, `answer_aside` has another thread send the response.
    """
    transaction._by_call = True
    with transaction:
        response = handler(request, transaction) if with_transaction else handler(request)
        if transaction._answered:
            return
        incoming = transaction._incoming
        route = incoming.route
        if incoming.one_way or route.in_process or route.is_writable(incoming):
            transaction.send_response(response)
        else:
            answer_aside(transaction, response)
            transaction._passed_on = True


def _strikes(kind: type[BaseException]) -> bool:
    """Whether an error of this kind may be raised at any line, whatever that does."""
    return not issubclass(kind, Exception) or issubclass(kind, (RecursionError, MemoryError))


def abandon_held(death: BaseException) -> None:
    """Hub callback: a thread died of `death`; what it had taken, and nobody else has, is abandoned.

    The error's traceback keeps the thread's variables, and with them its transactions.
    """
    for transaction in held_by_dead(death, ServerTransaction):
        transaction._incoming.abandon()


after_death(abandon_held)
