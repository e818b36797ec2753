"""The server's side of a transaction: a request that came, and its one answer.

What can happen to a request is decided here, the same for every kind of bus; how
the client is told is the subclasses' part.

Two objects stand for one request.  The bus holds the `PendingRequest`, whose
`State` says where the request is.  The thread that takes the request holds the
`ServerTransaction`; when it lets go of that, nobody can answer any more, and
the client is told so.

A request is answered only after its answer has been handed over, for that is the
step that can fail.  Until then it is being answered, and goes back to the thread
that has it if that fails: an error can still be sent, or that nothing will come.
"""

from __future__ import annotations

import enum
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Generic, NoReturn, TypeVar

import gevent
from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet._death import after_death, held_by_dead
from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_error
from ratchet._wait import WaitQueue, check_hub
from ratchet.bus._core.deadline import Scope, enter_scope, leave_scope, time_left
from ratchet.bus._core.faults import DRAINING, ErrorTexts, Reason, error_name, error_texts
from ratchet.bus._core.side import BusSide
from ratchet.bus.codecs import Address
from ratchet.errors import AlreadyAnswered

Request = TypeVar("Request")
Response = TypeVar("Response")


class State(enum.Enum):
    """Where a request is on the server's side.

    QUEUED -> TAKEN -> ANSWERING -> ANSWERED; from ANSWERING back to TAKEN if the
    answer cannot be made; or from the first three -> CANCELLED, and from there ->
    LATE when an answer comes all the same.
    """

    QUEUED = "queued"
    TAKEN = "taken"
    ANSWERING = "being answered"
    ANSWERED = "answered"
    CANCELLED = "cancelled"
    LATE = "answered too late"


# Module names, because an enum's attribute takes three times as long to read.
QUEUED, TAKEN, ANSWERING, ANSWERED, CANCELLED, LATE = State

# Where a thread has it.
_HELD: Final = (TAKEN, ANSWERING)
# Where it has no answer, and one is wanted.
OPEN: Final = (QUEUED, TAKEN, ANSWERING)


_ABANDONED: Final = "the server took the request and will not answer it"


class Interrupted(BaseException):
    """Thrown into the thread that handles a request when its client gives up.

    Never seen outside of `with transaction:`, which swallows its own.
    """


# What is no answer of a handler, but the end of its block, its thread or the program.
_NO_ANSWER: Final = (Interrupted, GreenletExit, GeneratorExit, KeyboardInterrupt)
# A handler that is called is no generator whose end this could be.
_NO_ANSWER_OF_A_CALL: Final = (Interrupted, GreenletExit, KeyboardInterrupt)


class RequestOwner(BusSide):
    """What a request on the server's side needs of its bus."""

    # The requests that a thread has taken and that are open.
    _in_flight: set[PendingRequest[Any, Any]]
    # Those whose handler is to be interrupted, and those that nobody holds any more.
    _to_interrupt: set[PendingRequest[Any, Any]]
    _dropped: deque[PendingRequest[Any, Any]]
    # The threads that wait until none is in flight.
    _drained: WaitQueue

    def _forget(self, request: PendingRequest[Any, Any]) -> None:
        """No thread has the request any more, or nobody wants its answer."""
        if self._drained:
            self._wake_drain()
        self._in_flight.discard(request)

    def _wake_drain(self) -> None:
        """A request has left `_in_flight`, or a connection is gone."""
        self._run_callback(self._drained.wake_all)

    def _abandon_dropped(self) -> None:
        """Hub callback: tell the clients of requests that nobody holds any more."""
        while self._dropped:
            self._dropped[0]._abandon()
            self._dropped.popleft()

    def _interrupt_handlers(self) -> None:
        """Hub callback: their clients gave up."""
        for request in list(self._to_interrupt):
            request._interrupt()

    def _settle_requests(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._abandon_dropped()
        for request in list(self._in_flight):
            request._settle()
        self._interrupt_handlers()
        self._wake_drain()


class PendingRequest(ABC, Generic[Request, Response]):
    """A request on the server's side, as the bus holds it."""

    # These are set by each kind's `__init__`, for speed, as in `ClientTransaction`.
    _bus: RequestOwner
    _state: State
    _deadline: float | None
    _one_way: bool
    # These are seldom read.
    _handler: greenlet | None = None
    _metadata: Mapping[str, str] = MappingProxyType({})
    _from: Address = None

    request: Request

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}: {self._state.value}>"

    @property
    def _taken(self) -> Request:
        """The request, as the thread that has it gets it."""
        return self.request

    @property
    def _would_block(self) -> bool:
        """Whether an answer would have to wait until the client reads."""
        return False

    @abstractmethod
    def _claim(self) -> bool:
        """A thread takes it from the inbox; False if it is not to be handled after all."""

    @abstractmethod
    def _decode(self) -> None:
        """Set `request`, from what came; may block, and raises what the codec raises."""

    @abstractmethod
    def _reply(self, response: Response) -> bool:
        """Make the response, hand it to the client's side, and only then set `ANSWERED`.

        May block.  See `send_response`.
        """

    @abstractmethod
    def _reply_error(self, number: Reason, texts: ErrorTexts) -> bool:
        """Hand an error to the client's side; does not block."""

    def _load(self) -> bool:
        """Decode what was claimed.  False if it is not to be handled after all.

        A codec that blocks is interrupted when the client gives up.
        """
        try:
            # First, or a client that gives up right now would find nobody to interrupt.
            self._handler = getcurrent()
            self._decode()
        except Interrupted as interrupt:
            if interrupt.args[0] is not self:
                raise
        except (KeyboardInterrupt, GreenletExit, gevent.Timeout):
            raise
        except BaseException as error:
            log_error(
                bus_logger, logging.WARNING, "a request from %s could not be decoded", self._from, error=error
            )
            self._refuse(Reason.NOT_DECODED, error_texts(error))
        finally:
            self._handler = None
            self._bus._to_interrupt.discard(self)
        # The client may have given up meanwhile.
        return self._state is TAKEN

    def _respond(self, response: Response) -> bool:
        """Answer it, once; see `send_response`."""
        if self._state is not TAKEN:
            return self._refuse_answer()
        try:
            self._state = ANSWERING
            handed_over = self._reply(response)
            self._release()
            return handed_over
        except BaseException as error:
            if self._state is ANSWERING:
                self._state = TAKEN
                try:
                    if isinstance(error, Exception):
                        self._refuse(Reason.HANDLER_RAISED, error_texts(error))
                    else:
                        self._abandon()
                finally:
                    settle_soon(self._bus._hub)
            else:
                settle_soon(self._bus._hub)
            raise

    def _respond_error(self, error: BaseException) -> bool:
        """Answer it with an error, once; see `send_error`."""
        if self._state is not TAKEN:
            return self._refuse_answer()
        texts = error_texts(error)
        try:
            handed_over = self._reply_error(Reason.HANDLER_RAISED, texts)
            self._state = ANSWERED
            self._release()
            return handed_over
        except BaseException:
            settle_soon(self._bus._hub)
            raise

    def _refuse_answer(self) -> bool:
        """An answer comes too late, so False; or it is the second one."""
        if self._state is CANCELLED:
            self._state = LATE
            self._bus._counters.dropped_late += 1
            return False
        raise AlreadyAnswered("the transaction has its answer already")

    def _release(self) -> None:
        """It has its answer, or needs none.  Calling it twice is the same as once."""
        self._bus._forget(self)

    def _settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self._state not in OPEN:
            self._release()

    def _refuse(self, number: Reason, texts: ErrorTexts) -> None:
        """Answer with an error of the bus itself, if it has no answer; does not block."""
        if self._state is QUEUED or self._state is TAKEN:
            try:
                self._reply_error(number, texts)
                self._state = ANSWERED
                self._release()
            except BaseException:
                settle_soon(self._bus._hub)
                raise

    def _refuse_draining(self) -> None:
        """The server takes no new work, and this was not taken yet."""
        self._refuse(Reason.DRAINING, ("Rejected", DRAINING, ""))

    def _abandon(self) -> None:
        """No thread can answer it any more."""
        if self._state is TAKEN:
            self._refuse(Reason.ABANDONED, ("Abandoned", _ABANDONED, ""))

    def _abandon_soon(self) -> None:
        """The same, from any OS thread."""
        bus = self._bus
        loop: Any = bus._hub.loop
        if self._state in _HELD and loop is not None:
            bus._dropped.append(self)
            loop.run_callback_threadsafe(bus._abandon_dropped)

    def _cancel(self) -> bool:
        """The client gave up.  True if no thread has taken the request.

        Does not block, also from a hub callback.
        """
        queued = self._state is QUEUED
        if queued or self._state in _HELD:
            self._interrupt_soon()
            self._state = CANCELLED
            self._release()
        return queued

    def _begin_handling(self, handler: greenlet) -> None:
        """A thread has entered `with transaction:`."""
        self._handler = handler
        if self._state is CANCELLED:
            self._interrupt_soon()

    def _end_handling(self) -> None:
        """It has left the block."""
        self._handler = None
        self._bus._to_interrupt.discard(self)

    def _interrupt_soon(self) -> None:
        if self._handler is not None:
            self._bus._run_callback(self._bus._interrupt_handlers)
            self._bus._to_interrupt.add(self)

    def _interrupt(self) -> None:
        """Hub callback."""
        self._bus._to_interrupt.discard(self)
        # Looked at again: the thread may have left the block meanwhile.
        if self._handler is not None and self._state in (CANCELLED, LATE) and not self._handler.dead:
            self._handler.throw(Interrupted(self))


class ServerTransaction(Generic[Request, Response]):
    """A request that came, and the way to answer it.

    As a context manager it answers when the block does not: an exception
    becomes the error response (logged once, and not raised further), leaving
    without an answer becomes `Abandoned`.  If the client gives up meanwhile,
    the thread is interrupted where it blocks, and goes on behind the block.

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
    # `_pending`; the others begin as they are here.
    _pending: PendingRequest[Request, Response]
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
        pending = self._pending
        peer = "" if pending._from is None else f" from {pending._from}"
        return f"<ServerTransaction at {id(self):#x}{peer}: {pending._state.value}>"

    @property
    def request(self) -> Request:
        """The object that was sent."""
        return self._pending._taken

    @property
    def from_(self) -> Address:
        """The peer's address; None on a local bus."""
        return self._pending._from

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the client sent along: a dict of strings, empty if it sent none."""
        return self._pending._metadata

    @property
    def remaining(self) -> float | None:
        """Seconds left of the client's timeout, not below 0; None if there is none."""
        return time_left(self._pending._deadline)

    @property
    def cancelled(self) -> bool:
        """Whether the client gave up: cancelled, timed out, or went away."""
        return self._pending._state in (CANCELLED, LATE)

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
        pending = self._pending
        if get_hub() is not pending._bus._hub:
            check_hub(pending._bus._hub, self)
        return pending._respond(response)

    def send_error(self, error: BaseException) -> bool:
        """Answer with an error; the client's call raises it as `RemoteError`.

        Does not block.  Returns as `send_response` does.  Raises `AlreadyAnswered`
        the second time, and `TypeError` for what is no exception.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"send_error needs an exception, not {error!r}")
        pending = self._pending
        check_hub(pending._bus._hub, self)
        return pending._respond_error(error)

    def __enter__(self) -> ServerTransaction[Request, Response]:
        pending = self._pending
        if get_hub() is not pending._bus._hub:
            check_hub(pending._bus._hub, self)
        current = getcurrent()
        scope = None
        try:
            if pending._deadline is not None:
                scope = enter_scope(pending._deadline)
            self._entries += ((current, scope),)
            pending._begin_handling(current)
            return self
        except BaseException:
            leave_scope(scope)
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        # Whoever leaves leaves the block that was entered last: it may be another thread
        # than entered it, or a generator's end in any thread.
        pending = self._pending
        leave_scope(self._entries[-1][1])
        self._entries = self._entries[:-1]
        if self._entries:
            pending._handler = self._entries[-1][0]
        else:
            pending._end_handling()
        # The type is asked, not the error: its attributes may be anything.
        kind: type[Any] = type(None) if error_type is None else error_type
        if issubclass(kind, Interrupted) and error is not None and error.args[0] is pending:
            return True
        # Raised in place of the call of a handler: nobody knows whether that ran.
        struck = self._by_call and tb is not None and tb.tb_next is None and _strikes(kind)
        no_answer = _NO_ANSWER_OF_A_CALL if self._by_call else _NO_ANSWER
        try:
            if struck:
                pending._abandon()
            elif error is not None and not issubclass(kind, no_answer) and not self._answered:
                self.send_error(error)
        finally:
            if not self._passed_on:
                pending._abandon()
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
        return self._pending._state in (ANSWERING, ANSWERED, LATE)

    def __del__(self) -> None:
        try:
            pending = self._pending
        except AttributeError:
            # `recv_request` was interrupted before it had one.
            return
        if pending._state is TAKEN:
            pending._abandon_soon()


def _strikes(kind: type[BaseException]) -> bool:
    """Whether an error of this kind may be raised at any line, whatever that does."""
    return not issubclass(kind, Exception) or issubclass(kind, (RecursionError, MemoryError))


def abandon_held(death: BaseException) -> None:
    """Hub callback: a thread died of `death`; what it had taken, and nobody else has, is abandoned.

    The error's traceback keeps the thread's variables, and with them its transactions.
    """
    for transaction in held_by_dead(death, ServerTransaction):
        transaction._pending._abandon()


after_death(abandon_held)
