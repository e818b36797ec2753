"""The server's side of every kind of bus: taking requests, serving, draining.

It knows the inbox and transactions, and nothing of how a request came.  A kind of bus puts an
`IncomingRequest` for each that comes into the inbox, and says by `_refuse_new` and
`_finished` how it drains.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

from greenlet import getcurrent, greenlet

from ratchet import _native
from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.handle import Received, ServerTransaction, receive_many
from ratchet.bus._core.handler_chain import HandlerChain
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.limits import check_above_zero, check_count, countable
from ratchet.bus._core.middleware import Middleware, checked_middleware
from ratchet.bus._core.serving import Team, wants_transaction
from ratchet.bus._core.side import CLOSED, DRAINING, OPEN, BusSide
from ratchet.bus.codecs import Decode
from ratchet.errors import BusClosed
from ratchet.kernel import kernel_of

Request = TypeVar("Request")
Response = TypeVar("Response")


class ServerSide(BusSide, Generic[Request, Response]):
    """The common part of the server's side of every kind of bus."""

    def __init__(
        self,
        decode: Decode[Request] | None,
        encode: Callable[[Response], object] | None,
        maxsize: int | None = None,
        max_queued: int | None = None,
    ) -> None:
        super().__init__()
        self._intake: Intake = Intake(self, self._hub, decode, encode, maxsize, max_queued)
        # The handlers that have called `drain`.
        self._drainers: set[greenlet] = set()

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
        return _receive(self, timeout)

    def recv_requests(
        self, most: int, timeout: float | None = None
    ) -> list[tuple[ServerTransaction[Request, Response], Request]]:
        """Wait for the next request, and take up to `most` of those that are there; blocks.

        For servers that work in batches.  Each is taken, and is to be answered, as one of
        `recv_request`.  If the thread is interrupted before it has all of them, the clients of
        those that it has get `Abandoned`.

        Args:
            most: how many at once, above 0.
            timeout: seconds until the first one has come; None for ever.

        Returns:
            The transactions and requests, in order; at least one.

        Raises what `recv_request` raises, and `TypeError` or `ValueError` for a wrong `most`.

        .. code-block:: python

            from ratchet import bus

            server, client = bus.new_local()
            for number in range(5):
                client.cast(number)
            for _ in range(2):
                print([request for transaction, request in server.recv_requests(3)])

        .. code-block:: text

            [0, 1, 2]
            [3, 4]
        """
        check_above_zero(most, "most")
        check_timeout(timeout)
        current = getcurrent()
        if current not in self._intake.takers:
            self._begin_taking(current)
        return receive_many(self._intake.inbox, countable(most), deadline_after(timeout))

    def _begin_taking(self, taker: greenlet) -> None:
        """Let the current thread take its first request."""
        check_hub(self._hub, self)
        self._revive()
        self._intake.watch(taker)

    def __iter__(self) -> Iterator[tuple[ServerTransaction[Request, Response], Request]]:
        """Receive requests, as `recv_request` does, until the bus is closed or drained."""
        # By a user's class, or on this very object.
        overridden = getattr(self.recv_request, "__func__", None) is not _RECV_REQUEST
        while True:
            try:
                # Not by way of a name: a reference kept here would put off the
                # `Abandoned` of one that the loop's body drops.
                yield self.recv_request() if overridden else _receive(self, None)
            except BusClosed:
                return

    def serve(
        self, handler: Callable[..., Response], workers: int = 64, *, middleware: Iterable[Middleware] = ()
    ) -> None:
        """Answer each request with what `handler` returns, until the bus is closed or drained.

        Blocks until then.  What the handler raises becomes the client's
        `RemoteError` and is logged.  A handler whose client gives up is
        interrupted where it blocks, as in `with transaction:`.

        Args:
            handler: called as `handler(request)`; or `handler(request,
                transaction)`, if it requires two arguments.
            workers: how many requests are handled at once, each in a background
                thread of the current thread's scheduler.
            middleware: functions around the handler, the first one outermost.  Each is called
                as `function(request, transaction, proceed)`, and returns what
                `proceed(request)` returns, or something else, or raises.  It also sees a
                request whose codec failed: as None, and `proceed` raises the error.

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
        with_transaction = wants_transaction(handler)
        functions = checked_middleware(middleware)
        check_count(workers, "workers")
        check_hub(self._hub, self)
        self._revive()
        if functions:
            chain = HandlerChain(functions, handler, with_transaction)
            team = Team(self._intake, chain, with_transaction=True, tells_failure=True)
        else:
            team = Team(self._intake, handler, with_transaction)
        try:
            team.work(workers)
            while self._intake.life < CLOSED:
                # What is answered is still to be sent, or another thread has work.
                self._intake.requests.drain_waiters.wait("serve", self)
        finally:
            team.kill()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new work, finish what was taken and what was cast, then close; blocks.

        Other requests that no thread has taken fail with `Rejected`.  Called by a
        handler of this bus, it does not wait for that handler's own request.

        Args:
            timeout: seconds until what is left is cut off; None for ever.

        Returns:
            Whether all of that is finished and its answers have been delivered.

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
        check_may_wait("drain")
        deadline = deadline_after(timeout)
        self._begin_drain()
        current = getcurrent()
        if not any(request.handler is current for request in self._intake.requests.in_flight):
            return self._end_drain(deadline)
        # This thread's own request can end only after this call: the rest of the drain
        # goes on without it, and another worker takes this one's place.
        try:
            self._drainers.add(current)
            self._intake.requests.wake_drain()
            if current in self._intake.workers:
                self._intake.workers[current].add_worker()
            finished = self._wait_until_finished(deadline)
            if finished:
                deadline = None
            return finished
        finally:
            # Also if this thread is interrupted meanwhile: the drain has begun.
            self._drainers.discard(current)
            kernel_of(current).attach_background(self._end_drain, deadline)

    def _begin_drain(self) -> None:
        """Take no new work; what was cast is kept, to be run."""
        if self._intake.life is not OPEN:
            return
        try:
            self._intake.life = DRAINING
            self._refuse_new()
            self._intake.refuse_queued()
        except BaseException:
            settle_soon(self._hub)
            raise

    def _wait_until_finished(self, deadline: float | None) -> bool:
        """Wait until all is answered but the requests of handlers that drain; False when the time is over."""
        while self._intake.life < CLOSED and (
            len(self._intake.inbox)
            or any(request.handler not in self._drainers for request in self._intake.requests.in_flight)
        ):
            if not self._intake.requests.drain_waiters.wait("drain", self, time_left(deadline)):
                return False
        return True

    def _end_drain(self, deadline: float | None) -> bool:
        """Wait until all is answered and delivered, and close.  Whether it was."""
        try:
            if self._wait_until_finished(deadline):
                while self._intake.life < CLOSED and (
                    self._intake.requests.in_flight or not self._finished()
                ):
                    if not self._intake.requests.drain_waiters.wait("drain", self, time_left(deadline)):
                        break
        except BaseException:
            settle_soon(self._hub)
            raise
        self.close()
        return not self._intake.cut_off

    def _finished(self) -> bool:
        """Whether all answers have been delivered; asked again after each `IncomingRequests.wake_drain`.

        By default they have, because within one process they are delivered at once.
        """
        return True

    @abstractmethod
    def _refuse_new(self) -> None:
        """Stop taking requests, and tell the clients: a drain begins.

        `_settle` calls it again as long as the drain goes on: calling it twice has the effect of
        once, though a client may be told again.  It does not block.
        """

    def _leaves_work(self) -> bool:
        """Whether it would be closed before all is answered and delivered; `drain` is False then.

        A kind whose answers take time to arrive adds those that have not.
        """
        return bool(self._intake.requests.in_flight)

    @abstractmethod
    def _close(self) -> int:
        """Close, and return how many casts will not be run; also from a hub callback.

        In this order: set `life` to `CLOSED`, drop the casts that no thread has taken
        (`Intake.drop_casts`), close the inbox, cancel what was queued and what is in flight,
        forget the takers, and wake those who drain.  Its `_settle` calls it again if the bus
        is closed, because any line may have been interrupted: the second call completes the
        first.  It does not block.
        """

    def close(self) -> None:
        """Close at once, and log what was cast and will not be run, or not to its end."""
        check_hub(self._hub, self)
        self._intake.cut_off = self._intake.cut_off or self._leaves_work()
        try:
            current = getcurrent()
            begun = sum(
                request.one_way
                for request in self._intake.requests.in_flight
                if request.handler is not current
            )
            casts = self._close()
        except BaseException:
            settle_soon(self._hub)
            raise
        if casts:
            self._intake.cut_off = True
            bus_logger.warning("casts not run when %s was closed: %d", self.name, casts)
        if begun:
            bus_logger.warning("casts interrupted when %s was closed: %d", self.name, begun)

    def _settle(self) -> None:
        self._intake.settle()
        if self._intake.life is DRAINING:
            self._refuse_new()
            self._intake.refuse_queued()

    def _after_fork(self) -> None:
        self._intake.leave_to_parent()

    def _revive(self) -> None:
        """Make a forked child ready to serve, in its parent's place or beside it.

        Called before a thread takes its first request.  By default a child cannot serve what
        its parent has opened: `_after_fork` has closed the inbox, and it gets `BusClosed`.
        """


_RECV_REQUEST: Final = ServerSide.recv_request


def _receive(side: ServerSide[Any, Any], timeout: float | None) -> Received[Any, Any]:
    """See `ServerSide.recv_request`; a function, so that the compiled build reads fields of C."""
    if timeout is not None:
        check_timeout(timeout)
    intake, current = side._intake, _native.current_thread()
    if current is not intake.last_taker:
        if current not in intake.takers:
            side._begin_taking(current)
        intake.last_taker = current if current in intake.takers else None
    return intake.take(timeout)
