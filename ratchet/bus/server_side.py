"""The server's side of every kind of bus: taking requests, serving, draining.

Rules of this room: it knows the inbox and transactions, and nothing of how a
request came.  A kind of bus puts pending requests into the inbox, and says by
`_refuse_new` and `_finished` how it drains.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import gevent
from greenlet import getcurrent

from ratchet._death import death_of
from ratchet._log import bus_logger
from ratchet._wait import WaitQueue, check_hub, check_timeout
from ratchet.bus.codecs import check_callable, required_arguments
from ratchet.bus.deadline import deadline_after, time_left
from ratchet.bus.inbox import Inbox
from ratchet.bus.pending import PendingRequest, RequestOwner, ServerTransaction, let_go
from ratchet.errors import BusClosed
from ratchet.kernel import Thread, kernel_of

Request = TypeVar("Request")
Response = TypeVar("Response")


class ServerSide(RequestOwner, Generic[Request, Response]):
    """What the server's side of a local bus and of a socket bus have in common."""

    def __init__(self, maxsize: int | None = None) -> None:
        super().__init__()
        self._in_flight: set[PendingRequest[Any, Any]] = set()
        self._inbox: Inbox[PendingRequest[Request, Response]] = Inbox(self, maxsize)
        self._draining = False
        # Whether work was left when it was closed.
        self._cut_off = False
        self._drained = WaitQueue()
        self._takers: set[gevent.Greenlet[Any, Any]] = set()

    @property
    def _state(self) -> str:
        return "closed" if self._closed else "draining" if self._draining else "open"

    def recv_request(
        self, timeout: float | None = None
    ) -> tuple[ServerTransaction[Request, Response], Request]:
        """Wait for the next request; blocks.

        Threads that wait are served first come, first served.  A request that
        cannot be decoded is answered with an error and logged, and the next one
        is waited for.

        Args:
            timeout: seconds; None for ever.

        Returns:
            The transaction, on which to answer, and the request.

        Raises `BusTimeout` when the time is over, and `BusClosed` when the bus
        is closed or draining.

        .. code-block:: python

            from ratchet import BusTimeout, bus

            server, client = bus.new_local()
            client.cast("one thing to do")
            try:
                while True:
                    transaction, request = server.recv_request(timeout=0.05)
                    print(request)
            except BusTimeout:
                print("and nothing more")

        .. code-block:: text

            one thing to do
            and nothing more
        """
        if getcurrent() not in self._takers:
            self._watch(getcurrent())
        if timeout is None:
            pending = self._inbox.get(None)
            while not pending._take():
                pending = self._inbox.get(None)
        else:
            pending = self._next_within(timeout)
        transaction: ServerTransaction[Request, Response] = ServerTransaction()
        transaction._pending = pending
        return transaction, pending.request

    def __iter__(self) -> Iterator[tuple[ServerTransaction[Request, Response], Request]]:
        """Receive requests, as `recv_request` does, until the bus is closed or drained."""
        while True:
            try:
                # Not by way of a name: a reference kept here would put off the
                # `Abandoned` of one that the loop's body drops.
                yield self.recv_request()
            except BusClosed:
                return

    def serve(self, handler: Callable[..., Response], workers: int = 64) -> None:
        """Answer each request with what `handler` returns, until the bus is closed or drained.

        Blocks until then.  What the handler raises becomes the client's
        `RemoteError` and is logged.  A handler whose client gives up is
        interrupted where it blocks, as in `with transaction:`.

        Args:
            handler: called as `handler(request)`; or `handler(request,
                transaction)`, if it requires two arguments.
            workers: how many requests are handled at once, each in a background
                thread of the current thread's scheduler.

        Raises `TypeError` or `ValueError` for an argument that will not do.

        .. code-block:: python

            from ratchet import Ratchet, bus

            def greet(name, transaction):
                return transaction.metadata["greeting"] + ", " + name

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, greet, workers=2)
                print(client.call("Ada", timeout=5, metadata={"greeting": "Good day"}))

        .. code-block:: text

            Good day, Ada
        """
        check_callable(handler, "handler")
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ValueError(f"workers must be a number above 0, not {workers!r}")
        check_hub(self._hub, self)
        arguments = required_arguments(handler)
        if arguments > 2:
            raise TypeError(f"handler must take the request and the transaction at most: {handler!r}")
        kernel = kernel_of(getcurrent())
        team: list[Thread] = []
        try:
            while not (self._closed or self._draining):
                team = [worker for worker in team if not worker.ready()]
                for _ in range(workers - len(team)):
                    team.append(kernel.attach_background(self._work, handler, arguments == 2))
                # A worker ends when the bus does, or when its handler kills it.
                gevent.wait(team, count=1)
            gevent.joinall(team)
            while not self._closed:
                # What is answered is still to be sent, or another thread has work.
                self._drained.wait("serve", self)
        finally:
            gevent.killall(team)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new work, finish what was taken, then close; blocks.

        Requests that no thread has taken fail with `Rejected`.

        Args:
            timeout: seconds until what is left is cut off; None for ever.

        Returns:
            Whether all that was taken is finished and its answers are sent.

        .. code-block:: python

            from ratchet import Rejected, bus, thread

            server, client = bus.new_local()
            first, second = client.send_request("first"), client.send_request("second")
            transaction, request = server.recv_request()
            thread.attach(transaction.send_response, "answer")
            print(server.drain(timeout=5), first.recv_response())
            try:
                second.recv_response()
            except Rejected as error:
                print(repr(error))

        .. code-block:: text

            True answer
            Rejected('the server is draining', outcome=NOT_RUN)
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        if not self._draining and not self._closed:
            self._draining = True
            self._refuse_new()
            for pending in self._inbox.close():
                pending._refuse_draining()
        deadline = deadline_after(timeout)
        while not self._closed and not self._finished():
            if not self._drained.wait("drain", self, time_left(deadline)):
                break
        self.close()
        return not self._cut_off

    def _finished(self) -> bool:
        """Whether all that was taken is answered; asked again after each `_wake_drain`."""
        return not self._in_flight

    @abstractmethod
    def _refuse_new(self) -> None:
        """A drain begins: stop taking requests, and tell the clients."""

    def _next_within(self, timeout: float) -> PendingRequest[Request, Response]:
        """Take the next request that is to be handled."""
        check_timeout(timeout)
        deadline = deadline_after(timeout)
        while True:
            pending = self._inbox.get(time_left(deadline))
            if pending._take():
                return pending

    def _work(self, handler: Callable[..., Response], with_transaction: bool) -> None:
        """What each thread of `serve` does."""
        while True:
            try:
                self._handle_next(handler, with_transaction)
            except BusClosed:
                return
            except gevent.Timeout as error:
                bus_logger.warning("the handler of a request raised %r", error, exc_info=error)

    def _handle_next(self, handler: Callable[..., Response], with_transaction: bool) -> None:
        transaction, request = self.recv_request()
        with transaction:
            response = handler(request, transaction) if with_transaction else handler(request)
            if transaction._answered:
                return
            if transaction._pending._would_block:
                # No worker waits for a client that does not read.
                transaction._passed_on = True
                kernel_of(getcurrent()).attach_background(self._answer_aside, transaction, response)
            else:
                transaction.send_response(response)

    def _answer_aside(self, transaction: ServerTransaction[Request, Response], response: Response) -> None:
        with transaction:
            transaction.send_response(response)

    def _after_fork(self) -> None:
        # The child may go on to serve with threads of its own.
        self._inbox.forget_all()
        self._in_flight.clear()
        self._drained.clear()
        self._forget_takers()

    def _watch(self, taker: object) -> None:
        """See to it that what a thread has taken goes with it when it dies."""
        check_hub(self._hub, self)
        if isinstance(taker, gevent.Greenlet):
            self._takers.add(taker)
            taker.rawlink(self._on_taker_end)

    def _on_taker_end(self, taker: gevent.Greenlet[Any, Any]) -> None:
        """Hub callback."""
        self._takers.discard(taker)
        death = death_of(taker)
        if death is not None:
            let_go(death)

    def _forget_takers(self) -> None:
        """The bus is closed, and no thread is to keep it in memory."""
        for taker in self._takers:
            taker.unlink(self._on_taker_end)
        self._takers.clear()
