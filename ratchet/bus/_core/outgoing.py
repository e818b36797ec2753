"""The client's side of a transaction: a request that was sent, and its outcome.

How a transaction can end is decided here, the same for every kind of bus; how the
server is told is the subclasses' part.  A transaction ends once; the bus counts and
drops what comes later.

It ends in three steps, in an order that may be interrupted anywhere: those who
wait are to be woken in a later turn, then it is done, then its bus forgets it.  Who
is woken looks whether it is done, and waits on if it is not.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, NoReturn, TypeVar

from gevent.hub import Waiter, get_hub

from ratchet._interrupts import settle_soon
from ratchet._wait import TIMED_OUT, check_hub, check_timeout, suspend
from ratchet.bus._core.deadline import deadline_after, in_words, seconds_until, time_left
from ratchet.bus._core.side import BusSide
from ratchet.errors import (
    BusError,
    BusTimeout,
    Cancelled,
    Outcome,
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class ClientTransaction(ABC, Generic[Request, Response]):
    """A request that was sent, and the response to come.

    Any number of threads may wait in `recv_response`; all get the same.

    Attributes:
        request: the object that was sent.
    """

    # Set by each kind's `__init__` itself, because a call of another one would take
    # as long as the rest.  A default in the class would make CPython 3.11 look up
    # each read of the attribute afresh, which takes ten times as long.
    _bus: BusSide
    _done: bool
    _error: BusError | None
    _value: Any
    _waiters: list[Waiter[Any]] | None
    _timer: Any
    # The seconds that it was given, for the text of an error.
    _seconds: float

    request: Request

    def __repr__(self) -> str:
        state = "waiting" if not self._done else "answered" if self._error is None else repr(self._error)
        return f"<{type(self).__name__} at {id(self):#x}: {state}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a transaction cannot be copied or pickled: it stands for one request")

    @property
    def done(self) -> bool:
        """Whether it has ended, by a response or an error."""
        return self._done

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
        if not self._done:
            self._wait(timeout)
        elif get_hub() is not self._bus._hub:
            check_hub(self._bus._hub, self)
        if self._error is not None:
            # Each waiter its own copy: a traceback belongs to one thread.
            raise copy.copy(self._error) from self._error.__cause__
        return self._response()

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
            Cancelled('the request was cancelled', outcome=UNKNOWN)
        """
        check_hub(self._bus._hub, self)
        try:
            self._give_up(Cancelled, "the request was cancelled")
        except BaseException:
            # It may be half given up, or given up and half forgotten: the hub does the rest.
            self._bus._run_callback(self._give_up, Cancelled, "the request was cancelled")
            settle_soon(self._bus._hub)
            raise

    @abstractmethod
    def _response(self) -> Response:
        """The response in `_value`, decoded."""

    @property
    @abstractmethod
    def _peer(self) -> str:
        """The server, for texts."""

    @abstractmethod
    def _withdraw(self) -> Outcome:
        """Tell the server that nobody waits any more, without blocking.

        Returns what is certain about the request.  May be called again if it was
        interrupted.
        """

    @abstractmethod
    def _forget(self) -> None:
        """It has ended: let the bus have it no longer.  Calling it twice is the same as once."""

    def _wait(self, timeout: float | None) -> None:
        deadline = None
        if timeout is not None:
            check_timeout(timeout)
            deadline = deadline_after(timeout)
        if get_hub() is not self._bus._hub:
            check_hub(self._bus._hub, self)
        # Its end may be interrupted after those who wait were told, and is then to come.
        while not self._done:
            waiter: Waiter[Any] = Waiter()
            left = None if deadline is None else time_left(deadline)
            try:
                if self._waiters is None:
                    self._waiters = [waiter]
                else:
                    self._waiters.append(waiter)
                timed_out = suspend(waiter, "recv_response", self, left) is TIMED_OUT
            except BaseException:
                if self._waiters is not None and waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
            # The response may have come in the very turn in which the time ended.
            if not self._done:
                assert self._waiters is not None
                self._waiters.remove(waiter)
                if timed_out:
                    raise BusTimeout(f"no response from {self._peer} within {timeout:g} s")

    def _end_at(self, deadline: float) -> None:
        """Let the transaction end in `BusTimeout` at `deadline`."""
        self._seconds = seconds_until(deadline)
        self._timer = self._bus._hub.loop.timer(self._seconds)
        self._timer.start(self._on_deadline, update=True)

    def _note_timeout(self, timeout: float) -> None:
        """The user's own number is the better text, if it is the one that counts."""
        if self._seconds > timeout / 2:
            self._seconds = timeout

    def _look_again_after(self, seconds: float) -> None:
        """Have `_on_deadline` called once more."""
        before = self._timer
        self._timer = self._bus._hub.loop.timer(seconds)
        self._timer.start(self._on_deadline, update=True)
        before.close()

    def _on_deadline(self) -> None:
        """Hub callback: the time of the request is over."""
        self._give_up(BusTimeout, self._time_over)

    @property
    def _time_over(self) -> str:
        return f"no response from {self._peer} within {in_words(self._seconds)}"

    def _settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self._done:
            self._forget()
        elif self._timer is not None and not self._timer.active:
            # It has rung, and what it was for was interrupted.
            self._look_again_after(0.0)

    def _give_up(self, error_type: type[BusError], message: str) -> None:
        """It ends, by this side's wish."""
        if not self._done:
            self._end_given_up(error_type(message, outcome=self._withdraw()))

    def _end_given_up(self, error: BusError) -> None:
        self._error = error
        self._end()
        self._bus._counters.cancelled += 1
        self._forget()

    def _fail(self, error: BusError) -> None:
        """It ended in an error that is not this side's wish."""
        if not self._done:
            self._error = error
            self._end()
            self._bus._counters.failed += 1

    def _succeed(self, value: Any) -> None:
        """The response is there."""
        self._value = value
        # One whose giving up was interrupted may have one.
        self._error = None
        self._end()
        self._bus._counters.answered += 1

    def _end(self) -> None:
        """The outcome is there: let those who wait have it.

        Does not block, also from a hub callback.
        """
        if self._waiters is not None:
            for waiter in self._waiters:
                self._bus._run_callback(waiter.switch, None)
        self._done = True
        if self._timer is not None:
            self._timer.close()
            self._timer = None
