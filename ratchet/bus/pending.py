"""The server's side of a transaction: a request that came, and its one answer.

Rules of this room: what can happen to a request is decided here, the same for
every kind of bus; how the client is told is the subclasses' part.  State is
decided first and told after, with no switch in between.

Two objects stand for one request.  The bus holds the `PendingRequest`, whose
`State` says where the request is.  The thread that takes the request holds the
`ServerTransaction`; when it lets go of that, nobody can answer any more, and
the client is told so.
"""

from __future__ import annotations

import enum
import gc
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import Token
from functools import partial
from types import FrameType, MappingProxyType, TracebackType
from typing import Any, Generic, TypeVar

import gevent
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from ratchet._death import after_death
from ratchet._log import bus_logger
from ratchet._wait import WaitQueue, check_hub
from ratchet.bus.codecs import Address
from ratchet.bus.deadline import inherit, stop_inheriting, time_left
from ratchet.bus.side import BusSide
from ratchet.bus.transaction import ErrorTexts, error_name, error_texts
from ratchet.bus.wire import ErrorNumber
from ratchet.errors import Abandoned, AlreadyAnswered, Rejected

Request = TypeVar("Request")
Response = TypeVar("Response")


class State(enum.Enum):
    """Where a request is on the server's side.

    QUEUED -> TAKEN -> ANSWERED; or from QUEUED or TAKEN -> CANCELLED, and from
    there -> LATE when an answer comes all the same.
    """

    QUEUED = "queued"
    TAKEN = "taken"
    ANSWERED = "answered"
    CANCELLED = "cancelled"
    LATE = "answered too late"


# Module names, because an enum's attribute takes three times as long to read.
QUEUED, TAKEN, ANSWERED, CANCELLED, LATE = State


class Interrupted(BaseException):
    """Thrown into the thread that handles a request when its client gives up.

    Never seen outside of `with transaction:`, which swallows its own.
    """


class RequestOwner(BusSide):
    """What a request on the server's side needs of its bus."""

    # The requests that a thread has taken and that are open.
    _in_flight: set[PendingRequest[Any, Any]]
    # The threads that wait until there is none.
    _drained: WaitQueue

    def _forget(self, request: PendingRequest[Any, Any]) -> None:
        """No thread has the request any more, or nobody wants its answer."""
        self._in_flight.discard(request)
        if self._drained:
            self._wake_drain()

    def _wake_drain(self) -> None:
        """A request has left `_in_flight`, or a connection is gone."""
        self._hub.loop.run_callback(self._drained.wake_all)


class PendingRequest(ABC, Generic[Request, Response]):
    """A request on the server's side, as the bus holds it."""

    # These are set by each kind's `__init__`, for speed, as in `ClientTransaction`.
    _bus: RequestOwner
    _state: State
    _deadline: float | None
    # These are seldom read.
    _handler: greenlet | None = None
    _metadata: Mapping[str, str] = MappingProxyType({})
    _from: Address = None

    request: Request

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}: {self._state.value}>"

    @property
    def _would_block(self) -> bool:
        """Whether an answer would have to wait until the client reads."""
        return False

    @abstractmethod
    def _take(self) -> bool:
        """A thread has it from the inbox; False if it is not to be handled after all."""

    @abstractmethod
    def _reply(self, response: Response) -> bool:
        """Hand the response to the client's side, and `_release`; see `send_response`."""

    @abstractmethod
    def _reply_error(self, number: ErrorNumber, texts: ErrorTexts) -> bool:
        """Hand an error to the client's side; does not block, raises nothing."""

    def _refuse_answer(self) -> bool:
        """An answer comes too late, so False; or it is the second one."""
        if self._state is CANCELLED:
            self._state = LATE
            self._bus._counters.dropped_late += 1
            return False
        raise AlreadyAnswered("the transaction has its answer already")

    def _release(self) -> None:
        """It has its answer, or needs none."""
        self._bus._forget(self)

    def _refuse(self, number: ErrorNumber, error: BaseException) -> None:
        """Answer with an error of the bus itself, if it has no answer; does not block."""
        if self._state is QUEUED or self._state is TAKEN:
            self._state = ANSWERED
            self._reply_error(number, error_texts(error))
            self._release()

    def _refuse_draining(self) -> None:
        """The server takes no new work, and this was not taken yet."""
        self._refuse(ErrorNumber.DRAINING, Rejected("the server is draining"))

    def _abandon(self) -> None:
        """No thread can answer it any more."""
        if self._state is TAKEN:
            error = Abandoned("the server took the request and will not answer it")
            self._refuse(ErrorNumber.ABANDONED, error)

    def _cancel(self) -> bool:
        """The client gave up.  True if no thread has taken the request.

        Does not block, also from a hub callback.
        """
        queued = self._state is QUEUED
        if queued or self._state is TAKEN:
            self._state = CANCELLED
            self._release()
            self._interrupt_soon()
        return queued

    def _begin_handling(self, handler: greenlet) -> None:
        """A thread has entered `with transaction:`."""
        self._handler = handler
        if self._state is CANCELLED:
            self._interrupt_soon()

    def _end_handling(self) -> None:
        """It has left the block."""
        self._handler = None

    def _interrupt_soon(self) -> None:
        if self._handler is not None:
            self._bus._hub.loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        """Hub callback."""
        # Looked at again: the thread may have left the block meanwhile.
        if self._handler is not None and not self._handler.dead:
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

    # No `__init__`, which would double the time to make one: `recv_request` sets
    # `_pending`, and the others begin as they are here.
    _pending: PendingRequest[Request, Response]
    # Another thread is to answer it.
    _passed_on = False
    # The `with` blocks that threads are in: each with what undoes its deadline.
    _entries: tuple[tuple[greenlet, Token[float | None] | None], ...] = ()

    def __repr__(self) -> str:
        pending = self._pending
        peer = "" if pending._from is None else f" from {pending._from}"
        return f"<ServerTransaction at {id(self):#x}{peer}: {pending._state.value}>"

    @property
    def request(self) -> Request:
        """The object that was sent."""
        return self._pending.request

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
        bus = pending._bus
        if get_hub() is not bus._hub:
            check_hub(bus._hub, self)
        if pending._state is not TAKEN:
            return pending._refuse_answer()
        pending._state = ANSWERED
        return pending._reply(response)

    def send_error(self, error: BaseException) -> bool:
        """Answer with an error; the client's call raises it as `RemoteError`.

        Does not block.  Returns as `send_response` does.  Raises `AlreadyAnswered`
        the second time, and `TypeError` for what is no exception.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"send_error needs an exception, not {error!r}")
        pending = self._pending
        check_hub(pending._bus._hub, self)
        if pending._state is not TAKEN:
            return pending._refuse_answer()
        pending._state = ANSWERED
        try:
            return pending._reply_error(ErrorNumber.HANDLER_RAISED, error_texts(error))
        finally:
            pending._release()

    def __enter__(self) -> ServerTransaction[Request, Response]:
        pending = self._pending
        if get_hub() is not pending._bus._hub:
            check_hub(pending._bus._hub, self)
        current = getcurrent()
        self._entries += ((current, inherit(pending._deadline)),)
        pending._begin_handling(current)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        pending = self._pending
        current = getcurrent()
        left = next(entry for entry in reversed(self._entries) if entry[0] is current)
        self._entries = tuple(entry for entry in self._entries if entry is not left)
        stop_inheriting(left[1])
        if self._entries:
            pending._handler = self._entries[-1][0]
        else:
            pending._end_handling()
        # The type is asked, not the error: its attributes may be anything.
        kind = type(None) if error_type is None else error_type
        if issubclass(kind, Interrupted) and error is not None and error.args[0] is pending:
            return True
        if error is not None and issubclass(kind, (Exception, gevent.Timeout)) and not self._answered:
            self.send_error(error)
        if not self._passed_on:
            pending._abandon()
        if issubclass(kind, Exception):
            bus_logger.warning("the handler of a request raised %s", error_name(kind), exc_info=error)
            return True
        return False

    @property
    def _answered(self) -> bool:
        return self._pending._state in (ANSWERED, LATE)

    def __del__(self) -> None:
        pending = self._pending
        if pending._state is TAKEN and pending._bus._hub.loop is not None:
            # The last reference may go in any OS thread, so not in place.
            pending._bus._hub.loop.run_callback_threadsafe(pending._abandon)


def let_go(death: BaseException, only_transactions: bool = False) -> None:
    """Let go of what a dead thread's traceback keeps.

    The traceback keeps the thread's local variables, and with them each
    transaction that it had and did not answer.  Letting go abandons those,
    while one that another thread has too lives on.

    Args:
        only_transactions: leave a traceback alone that keeps no transaction.
    """
    errors: list[BaseException | None] = [death]
    seen: set[int] = set()
    while errors:
        error = errors.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        errors += (error.__cause__, error.__context__)
        trace = error.__traceback__
        if not only_transactions or any(_has_transaction(frame) for frame, _ in traceback.walk_tb(trace)):
            traceback.clear_frames(trace)


def _has_transaction(frame: FrameType) -> bool:
    # Not `f_locals`: that would make a copy of the variables, which the frame keeps.
    held = gc.get_referents(frame)
    for value in list(held):
        if isinstance(value, (tuple, list, set, dict)):
            held += value.values() if isinstance(value, dict) else value
    return any(isinstance(value, ServerTransaction) for value in held)


after_death(partial(let_go, only_transactions=True))
