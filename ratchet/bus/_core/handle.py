"""What a handler holds: the `ServerTransaction` of a request that it has taken.

When the last thread lets go of it, nobody can answer any more, and the client is
told so.  What becomes of the request is decided in `incoming`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, TypeVar

from gevent.hub import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet._death import after_death, held_by_dead
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
from ratchet.bus.codecs import Address

Request = TypeVar("Request")
Response = TypeVar("Response")

# What is no answer of a handler, but the end of its block, its thread or the program.
_NO_ANSWER: Final = (Interrupted, GreenletExit, GeneratorExit, KeyboardInterrupt)
# A handler that is called is no generator whose end this could be.
_NO_ANSWER_OF_A_CALL: Final = (Interrupted, GreenletExit, KeyboardInterrupt)


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
    # `incoming`; the others begin as they are here.
    incoming: IncomingRequest
    # Another thread is to answer it.
    passed_on = False
    # The block does no more than call a handler.
    by_call = False
    # The `with` blocks that threads are in: each with what ends its deadline.
    _entries: tuple[tuple[greenlet, Scope | None], ...] = ()

    def __init__(self) -> None:
        raise TypeError("a ServerTransaction comes from recv_request(), and is not made by hand")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a transaction cannot be copied or pickled: it stands for one request")

    def __repr__(self) -> str:
        incoming = self.incoming
        peer = "" if incoming.peer is None else f" from {incoming.peer}"
        return f"<ServerTransaction at {id(self):#x}{peer}: {incoming.state.name.lower()}>"

    @property
    def request(self) -> Request:
        """The object that was sent."""
        return self.incoming.message  # type: ignore[no-any-return]

    @property
    def from_(self) -> Address:
        """The peer's address; None on a local bus."""
        return self.incoming.peer

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the client sent along: a dict of strings, empty if it sent none."""
        return self.incoming.metadata

    @property
    def remaining(self) -> float | None:
        """Seconds left of the client's timeout, not below 0; None if there is none."""
        return time_left(self.incoming.deadline)

    @property
    def cancelled(self) -> bool:
        """Whether the client gave up: cancelled, timed out, or went away."""
        return self.incoming.state in (CANCELLED, LATE)

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
        incoming = self.incoming
        if get_hub() is not incoming.requests.hub:
            check_hub(incoming.requests.hub, self)
        return incoming.respond(response)

    def send_error(self, error: BaseException) -> bool:
        """Answer with an error; the client's call raises it as `RemoteError`.

        Does not block.  Returns as `send_response` does.  Raises `AlreadyAnswered`
        the second time, and `TypeError` for what is no exception.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"send_error needs an exception, not {error!r}")
        incoming = self.incoming
        check_hub(incoming.requests.hub, self)
        return incoming.respond_error(error)

    def __enter__(self) -> ServerTransaction[Request, Response]:
        incoming = self.incoming
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
        incoming = self.incoming
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
        struck = self.by_call and tb is not None and tb.tb_next is None and _strikes(kind)
        no_answer = _NO_ANSWER_OF_A_CALL if self.by_call else _NO_ANSWER
        try:
            if struck:
                incoming.abandon()
            elif error is not None and not issubclass(kind, no_answer) and not self.answered:
                self.send_error(error)
        finally:
            if not self.passed_on:
                incoming.abandon()
        fails = issubclass(kind, (Exception, SystemExit))
        if self.by_call and not struck:
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
    def is_writable(self) -> bool:
        """Whether an answer would not have to wait until the client reads."""
        incoming = self.incoming
        return incoming.one_way or incoming.route.is_writable(incoming)

    @property
    def answered(self) -> bool:
        """Whether it has its answer, or is getting one right now."""
        return self.incoming.state in (ANSWERING, ANSWERED, LATE)

    def __del__(self) -> None:
        try:
            incoming = self.incoming
        except AttributeError:
            # `recv_request` was interrupted before it had one.
            return
        if incoming.state is TAKEN:
            incoming.requests.drop(incoming)


def _strikes(kind: type[BaseException]) -> bool:
    """Whether an error of this kind may be raised at any line, whatever that does."""
    return not issubclass(kind, Exception) or issubclass(kind, (RecursionError, MemoryError))


def abandon_held(death: BaseException) -> None:
    """Hub callback: a thread died of `death`; what it had taken, and nobody else has, is abandoned.

    The error's traceback keeps the thread's variables, and with them its transactions.
    """
    for transaction in held_by_dead(death, ServerTransaction):
        transaction.incoming.abandon()


after_death(abandon_held)
