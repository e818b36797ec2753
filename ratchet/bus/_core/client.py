"""The client's side of every kind of bus: its transactions, and what needs only a `RequestSender`.

What becomes of a request is decided in `outgoing`.  Nothing here knows how one travels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from ratchet import _native
from ratchet._interrupts import settle_soon
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._core.deadline import request_deadline
from ratchet.bus._core.faults import copy_metadata
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import ENDED, SUCCEEDED, OutgoingRequest
from ratchet.bus._core.public_class import TypeParameters
from ratchet.bus._core.side import BusSide
from ratchet.bus.codecs import check_callable
from ratchet.errors import BusError

Request = TypeVar("Request")
Response = TypeVar("Response")

_PUBLIC: Final = ("cancel", "done", "rawlink", "ready", "recv_response", "request", "unlink")


class ClientTransaction(OutgoingRequest, TypeParameters[Request, Response]):
    """A request that was sent, and the response to come.

    Any number of threads may wait in `recv_response`; all get the same.  `gevent.wait` and
    `gevent.iwait` take it among other things that gevent can wait for.

    Attributes:
        request: the object that was sent.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        request: Request

    def __dir__(self) -> list[str]:
        # What the bus holds it by is not for its user.  Compiled, a comprehension has no `super()`.
        return [name for name in object.__dir__(self) if name.startswith("__") or name in _PUBLIC]

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
        return self.result(timeout)  # type: ignore[no-any-return]

    def ready(self) -> bool:
        """Whether it has ended: `done`, as gevent spells it."""
        return self.state in ENDED

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Have `callback` called with the transaction, once, when it has ended; does not block.

        It is called in the hub, so it must not block; soon, if the transaction has ended.
        This is how `gevent.wait` waits for it.

        Raises `TypeError` for anything that cannot be called.

        .. code-block:: python

            import gevent
            from ratchet import Ratchet, bus, thread

            def double(number):
                thread.timer(number / 10)
                return 2 * number

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, double)
                slow, fast = client.send_request(2), client.send_request(1)
                (first,) = gevent.wait([slow, fast], count=1)
                print(first is fast, first.recv_response())

        .. code-block:: text

            True 2
        """
        check_callable(callback, "callback")
        check_hub(self.route.hub, self)
        self.add_link(callback)

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Have `callback` called no more, unless that is about to happen; does not block."""
        check_hub(self.route.hub, self)
        self.drop_link(callback)

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
            self.end_cancelled()
        except BaseException:
            # It may be half given up, or given up and half forgotten: the hub does the rest.
            self.route.run_callback(self.end_cancelled)
            settle_soon(self.route.hub)
            raise


class RequestSender:
    """Sends the requests of a client's side, in the way of its kind of bus.

    A base class, and no protocol, so that the compiled build calls it directly.  Each call, in its
    own order,

    - refuses another OS thread (`check_hub`) and a wrong time-out (`check_timeout`);
    - encodes in the thread that called, and refuses what is over the limits (`check_size`);
    - takes the deadline of `request_deadline`, or `inherited_deadline` where no time-out is
      given, so that nested calls have no more time than the request that they are for;
    - waits for room until then, and no longer: `BusTimeout`, `NOT_SENT`;
    - refuses a side that is closed, drains or is the parent's, and looks again after all
      that blocks, and once it has sent: a signal handler may have closed the bus meanwhile;
    - enters the transaction where `close`, `_settle` and `_after_fork` find it before it sends,
      and takes it out again if sending fails, so that nothing waits for a lost answer;
    - has `send` end the transaction in time (`OutgoingRequest.end_at`), and name the
      user's own number (`note_timeout`).

    To a cast, the deadline is only that of its sending; it keeps no transaction.
    """

    __slots__ = ()

    def send(
        self,
        owner: object,
        request: Any,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        idempotent: bool,
    ) -> ClientTransaction[Any, Any]:
        """Send a request of `owner`, the client's side; see `ClientSide.send_request`."""
        raise NotImplementedError

    def cast(
        self, owner: object, request: Any, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        """Send one to which no response is wanted; see `ClientSide.cast`."""
        raise NotImplementedError

    def encode_many(self, requests: list[Any], metadata: Mapping[str, str] | None) -> list[Any]:
        """Encode all requests of a `call_many`, and refuse what is over the limits."""
        raise NotImplementedError

    def send_some(self, owner: object, many: ManyRequests) -> None:
        """Send the next one at least, or as many as there is room for; blocks while there is none.

        Each is added to `many` before it can be answered.  Raises the `BusError` of the next one,
        having added none, if that one cannot be sent.
        """
        raise NotImplementedError


class ClientSide(BusSide, Generic[Request, Response]):
    """The common part of the client's side of every kind of bus.

    A kind supplies its `RequestSender`.  What was cast is waited for by the kind's own
    `__exit__`, if no error leaves the block, for `stall_timeout` at most, and then the bus is
    closed: that of `BusSide` closes at once.
    """

    _sender: RequestSender

    def send_request(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotent: bool = False,
    ) -> ClientTransaction[Request, Response]:
        """Send a request, and return the transaction on which to receive its response.

        Blocks only while there is no room: in a bounded local bus, in the
        connection's unsent bytes, or while there is no connection.

        Args:
            request: the object to send.
            timeout: seconds for the whole transaction, None for ever; after that
                it ends in `BusTimeout`, and the server is told.  Over a socket its
                waiters get up to 0.1 s more, for the server's word on whether it
                ran.  A request that is sent while a thread handles another one
                has no more time than is left of that one's.
            metadata: a dict of strings that goes along, up to 64 KiB as JSON.
            idempotent: whether it may run more than once, and so may be sent again by
                `Retry` also if nobody knows whether it ran.

        Raises `BusClosed`, `BusTimeout`, `Rejected`, `ConnectionLost` or
        `MessageTooLarge`, what `request_to_bus` raises, or `TypeError` or
        `ValueError` for another argument; then nothing was sent.

        .. code-block:: python

            from ratchet import Ratchet, bus

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, lambda number: number**2)
                transactions = [client.send_request(number, timeout=5) for number in range(5)]
                print([transaction.recv_response() for transaction in transactions])

        .. code-block:: text

            [0, 1, 4, 9, 16]
        """
        return _send(self, request, timeout, metadata, idempotent)

    def cast(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Send a request to which no response is wanted; none is kept.

        Blocks and raises as `send_request` does.  When it returns, the request has been
        handed over: to the bus inside this process, to what is sent on a connection, or to a
        majority of a broker's nodes.
        Leaving `with bus:` without an error, and `drain()`, wait until it has left.

        Args:
            request: the object to send.
            timeout: seconds for the sending alone, None for ever.
            metadata: as for `send_request`.

        .. code-block:: python

            from ratchet import bus

            server, client = bus.new_local()
            client.cast("started")
            transaction, line = server.recv_request()
            print(line, transaction.send_response("nobody wants this"))

        .. code-block:: text

            started False
        """
        self._sender.cast(self, request, timeout, metadata)

    def call(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotent: bool = False,
    ) -> Response:
        """Send a request, wait for its response, and return that; blocks.

        If the thread is interrupted meanwhile, the request is cancelled.

        Args:
            request: as for `send_request`.
            timeout: as for `send_request`.
            metadata: as for `send_request`.
            idempotent: as for `send_request`.

        Raises what `send_request` and `ClientTransaction.recv_response` raise.

        .. code-block:: python

            from ratchet import Ratchet, RemoteError, bus

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, lambda number: 100 // number)
                print(client.call(8, timeout=5))
                try:
                    client.call(0, timeout=5)
                except RemoteError as error:
                    print(error)

        .. code-block:: text

            12
            ZeroDivisionError: integer division or modulo by zero
        """
        return _call(self, request, timeout, metadata, idempotent)  # type: ignore[no-any-return]

    def call_many(
        self,
        requests: Iterable[Request],
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotent: bool = False,
    ) -> list[Response | BusError]:
        """Send many requests at once, and wait until all of them have ended; blocks.

        It costs far less than as many calls, or as many threads: all are encoded first, what the
        server takes at once leaves together, and the thread wakes when the last one has ended.
        If it is interrupted before that, those that have not ended are cancelled.

        Args:
            requests: the objects to send.
            timeout: seconds for all of them together, as for `send_request`; None for ever.
            metadata: a dict of strings that goes along with each.
            idempotent: as for `send_request`, of each.

        Returns:
            A list in the order of the requests, with the response of each one that has one, and
            the `BusError` in which any other one ended, which is not raised.  A response that
            `response_from_bus` cannot decode is a `BusError` with the outcome `RAN`, whose
            `__cause__` says why.

        Raises what `request_to_bus` raises, `MessageTooLarge`, and `TypeError` or `ValueError`
        for a wrong argument; then nothing was sent.

        .. code-block:: python

            from ratchet import BusError, Ratchet, bus

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, lambda number: 100 // number)
                for result in client.call_many([8, 0, 5], timeout=5):
                    print(repr(result) if isinstance(result, BusError) else result)

        .. code-block:: text

            12
            RemoteError('ZeroDivisionError: integer division or modulo by zero', outcome=RAN)
            20
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        check_may_wait("call_many")
        deadline = request_deadline(timeout)
        if metadata is not None:
            metadata = copy_metadata(metadata)
        objects = list(requests)
        messages = self._sender.encode_many(objects, metadata)
        many = ManyRequests(self._hub, objects, messages, metadata, deadline, idempotent)
        if timeout is not None:
            many.note_timeout(timeout)
        try:
            _send_all(self, many)
            many.wait()
            return many.results()
        except BaseException:
            many.give_up()
            raise

    @abstractmethod
    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until there is a connection over which the server has said hello; blocks.

        A local bus is always connected, and a server that speaks the plain form says no
        hello: there it is enough that it has let this side connect.

        Args:
            timeout: seconds; None for ever.

        Raises `BusTimeout`, with the reason, when the time is over; `ConnectionLost` where
        no further attempt can succeed; and `BusClosed` if the bus is closed.

        .. code-block:: python

            from ratchet import Ratchet, bus

            with Ratchet() as kernel, bus.listen("127.0.0.1:0") as server:
                kernel.attach_background(server.serve, bytes.upper)
                with bus.connect(server.address) as client:
                    client.wait_connected(timeout=5)
                    print(client.stats().connections)

        .. code-block:: text

            1
        """


def _send(
    side: ClientSide[Any, Any],
    request: Any,
    timeout: float | None,
    metadata: Mapping[str, str] | None,
    idempotent: bool,
) -> ClientTransaction[Any, Any]:
    """See `ClientSide.send_request`; a function, so that the compiled build reads a field of C."""
    sender = side._sender
    return sender.send(side, request, timeout, metadata, idempotent)


def _send_all(side: ClientSide[Any, Any], many: ManyRequests) -> None:
    """Send all requests of a `call_many`; blocks while there is no room for one."""
    sender, outcomes, size = side._sender, many.outcomes, len(many.requests)
    while (begun := len(outcomes)) < size:
        try:
            sender.send_some(side, many)
        except BusError as error:
            if len(outcomes) > begun:
                # It struck in the middle, as a signal handler's own may.
                raise
            outcomes.append(error)


def _call(
    side: ClientSide[Any, Any],
    request: Any,
    timeout: float | None,
    metadata: Mapping[str, str] | None,
    idempotent: bool,
) -> Any:
    """See `ClientSide.call`."""
    # In C, sending may take no level of the stack, but giving up takes one.
    _native.check_stack()
    transaction: Any = None
    try:
        # By its name: a user's class has its own, or a user has put another one in its place.
        if idempotent:
            transaction = side.send_request(request, timeout, metadata, idempotent=True)
        else:
            transaction = side.send_request(request, timeout, metadata)
        if isinstance(transaction, ClientTransaction):
            # Of a name of its own, by whose type the compiled build calls it directly.
            sent = transaction
            return sent.recv_response()
        return transaction.recv_response()
    except BaseException:
        if transaction is not None:
            transaction.cancel()
        raise
