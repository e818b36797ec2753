"""The scenarios of `robustness.interrupts`: what happens on the stage while the interrupt is armed."""

from __future__ import annotations

from typing import Any

from gevent.event import AsyncResult

from ratchet import BusClosed
from ratchet.bus import Retry
from robustness.stage import LARGE, PLAIN, REFUSED, SMALL, UNREADABLE, WAITS, Failure, Stage

TELLING = ("tcp", "unix", "tls", "broker")
"""Kinds over which a server tells that a request has not run."""
SOCKETS = (*TELLING, "tcp-plain")
KINDS = ("local", *SOCKETS)
SEVERAL = ("tcp", "unix", "tls")
"""Kinds of which a client knows its servers, and sends a request to another one."""

SOON = Retry(attempts=3, back_off=0.002)
LATE = Retry(attempts=3, back_off=0.3)
"""So that what is to be sent again is still waiting for that."""


class Scenario:
    """What happens while the interrupt is armed."""

    kinds: tuple[str, ...] = KINDS
    servers = 1
    retry: Retry | None = None
    middleware = False
    serves = True
    # Whether a client that is connected is there when it begins, and stays.
    connects = True
    stays_connected = True
    closes_server = False
    closes_client = False
    workers = 4

    def play(self, stage: Stage, client: Any) -> None:
        raise NotImplementedError


class Call(Scenario):
    """A call that `serve` answers."""

    def play(self, stage: Stage, client: Any) -> None:
        stage.call(client, stage.request())


class LargeCall(Scenario):
    """Large and small messages at once, so that frames follow each other closely."""

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(LARGE))
        stage.start(stage.call, client, stage.request())
        stage.cast(client)
        stage.call(client, stage.request(LARGE))


class CallMany(Scenario):
    """Many requests in one call, large and small ones, beside another thread's."""

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request())
        stage.call_many(client, [stage.request(size) for size in (SMALL, LARGE, SMALL)])


class TimeOutOfMany(Scenario):
    """The time of many requests is over: of one that is handled, and of others that wait."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        attempts = [stage.request(), stage.request(mark=WAITS), stage.request()]
        stage.call_many(client, attempts, 0.005)


class Casts(Scenario):
    """Casts, and a call behind them."""

    def play(self, stage: Stage, client: Any) -> None:
        for _ in range(3):
            stage.cast(client)
        stage.call(client, stage.request())


class CancelQueued(Scenario):
    """A request is cancelled that waits behind another one."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.send(client, stage.request(mark=WAITS))
        stage.wait_until_begun()
        attempt = stage.request()
        transaction = stage.send(client, attempt)
        stage.let_arrive()
        transaction.cancel()
        stage.receive(attempt, transaction)
        stage.release.set()


class CancelRunning(Scenario):
    """A request is cancelled while its handler runs."""

    def play(self, stage: Stage, client: Any) -> None:
        attempt = stage.request(mark=WAITS)
        transaction = stage.send(client, attempt)
        stage.wait_until_begun()
        transaction.cancel()
        stage.receive(attempt, transaction)


class TimeOut(Scenario):
    """The time of two requests is over: of one that is handled, and of one that waits."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS), 0.01)
        stage.wait_until_begun()
        stage.call(client, stage.request(), 0.005)


class Link(Scenario):
    """A thread waits for the ends of two requests as gevent does, which would only print what strikes."""

    def play(self, stage: Stage, client: Any) -> None:
        attempts = [stage.request() for _ in range(2)]
        for attempt in attempts:
            transaction = stage.send(client, attempt)
            ended: AsyncResult[Any] = AsyncResult()
            transaction.rawlink(ended.set)
            transaction.rawlink(id)
            transaction.unlink(id)
            if ended.get(timeout=stage.patience) is not transaction:
                raise Failure("another one has ended")
            stage.receive(attempt, transaction)


class ByHand(Scenario):
    """A thread takes requests and answers them itself, in each of the ways there are."""

    serves = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start_background(self._take, stage)
        for _ in range(4):
            stage.start(stage.call, client, stage.request())
        stage.call(client, stage.request())

    def _take(self, stage: Stage) -> None:
        ways = iter((self._respond, self._fail, self._respond_within, self._leave, self._raise))
        for transaction, body in stage.server:
            stage.log.append(body)
            next(ways, self._respond)(transaction, body)
            # One that is not answered is to be dropped at once.
            del transaction

    def _respond(self, transaction: Any, body: bytes) -> None:
        transaction.send_response(body)

    def _fail(self, transaction: Any, body: bytes) -> None:
        transaction.send_error(ValueError("an error of the handler"))

    def _respond_within(self, transaction: Any, body: bytes) -> None:
        with transaction:
            transaction.send_response(body)

    def _leave(self, transaction: Any, body: bytes) -> None:
        with transaction:
            pass

    def _raise(self, transaction: Any, body: bytes) -> None:
        with transaction:
            raise ValueError("an error of the handler")


class Batches(Scenario):
    """A thread takes several requests at once, and answers them together."""

    serves = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start_background(self._take, stage)
        for _ in range(3):
            stage.start(stage.call, client, stage.request())
        stage.call(client, stage.request())

    def _take(self, stage: Stage) -> None:
        while True:
            try:
                batch = stage.server.recv_requests(3)
            except BusClosed:
                return
            stage.log += [body for _, body in batch]
            for transaction, body in batch:
                transaction.send_response(body)
            # One that was not answered is to be dropped at once.
            batch.clear()
            del transaction


class Connect(Scenario):
    """A client is opened, calls, and is closed."""

    kinds = SOCKETS
    connects = stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        opened = stage.connect()
        stage.call(opened, stage.request())
        opened.close()


class Lost(Scenario):
    """The connection breaks with requests in flight; then there is another one."""

    kinds = SOCKETS
    stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS))
        stage.start(stage.call, client, stage.request(LARGE))
        stage.wait_until_begun()
        stage.cut()
        stage.let_arrive()
        stage.call(client, stage.request())


class CloseClient(Scenario):
    """The client is closed with requests in flight."""

    stays_connected = False
    closes_client = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS))
        stage.wait_until_begun()
        stage.cast(client)
        stage.send(client, stage.request())
        client.close()


class DrainClient(Scenario):
    """The client is drained with requests in flight."""

    kinds = SOCKETS
    stays_connected = False
    closes_client = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.send(client, stage.request())
        stage.cast(client)
        client.drain()


class CloseServer(Scenario):
    """The server is closed with requests in flight and in the queue."""

    stays_connected = False
    closes_server = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS), stage.longest)
        stage.wait_until_begun()
        stage.send(client, stage.request(), stage.longest)
        stage.let_arrive()
        stage.server.close()


class DrainServer(Scenario):
    """The server is drained with requests in flight and in the queue."""

    stays_connected = False
    closes_server = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS), stage.longest)
        stage.wait_until_begun()
        stage.send(client, stage.request(), stage.longest)
        stage.let_arrive()
        stage.start(stage.release.set)
        stage.server.drain()


class Middleware(Scenario):
    """Each kind of call, with middleware on both sides."""

    middleware = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(LARGE))
        stage.cast(client)
        attempt = stage.request()
        transaction = stage.send(client, attempt)
        stage.call_many(client, [stage.request(), stage.request()])
        stage.receive(attempt, transaction)
        stage.call(client, stage.request())


class MiddlewareOfCodec(Scenario):
    """Middleware sees a request whose codec has failed, between others."""

    kinds = SOCKETS
    middleware = True
    # A server that cannot tell an error closes a plain connection.
    stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request())
        stage.call(client, stage.request(mark=UNREADABLE))
        stage.call(client, stage.request())


class MiddlewareOfTimeOut(Scenario):
    """The time of a request is over while its handler waits, behind middleware."""

    middleware = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS), 0.01)
        stage.wait_until_begun()
        stage.call(client, stage.request(), 0.005)


class MiddlewareOfCancel(Scenario):
    """A request is cancelled while its handler runs, behind middleware."""

    middleware = True

    def play(self, stage: Stage, client: Any) -> None:
        attempt = stage.request(mark=WAITS)
        transaction = stage.send(client, attempt)
        stage.wait_until_begun()
        transaction.cancel()
        stage.receive(attempt, transaction)


class RetryRefused(Scenario):
    """Requests are refused once, and sent again."""

    kinds = TELLING
    retry = SOON

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(LARGE, REFUSED), stage.patience)
        stage.start(stage.call, client, stage.request(mark=REFUSED))
        stage.call(client, stage.request(mark=REFUSED, idempotent=True))


class RetryMany(Scenario):
    """Some of many requests are refused once, and sent again, behind middleware."""

    kinds = TELLING
    middleware = True
    retry = SOON

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=REFUSED))
        stage.call_many(client, [stage.request(mark=mark) for mark in (REFUSED, PLAIN, REFUSED)])


class RetryCancelled(Scenario):
    """A request that is to be sent again is cancelled before that."""

    kinds = TELLING
    retry = LATE

    def play(self, stage: Stage, client: Any) -> None:
        attempt = stage.request(mark=REFUSED)
        transaction = stage.send(client, attempt)
        stage.let_retry(client)
        transaction.cancel()
        stage.receive(attempt, transaction)


class RetryOutOfTime(Scenario):
    """The server is closed, and there is no other one to which a request may move in its time."""

    kinds = SEVERAL
    retry = SOON
    stays_connected = False
    closes_server = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS, idempotent=True), 0.05)
        stage.wait_until_begun()
        stage.server.close()
        stage.call(client, stage.request(), 0.02)


class RetryClosed(Scenario):
    """The client is closed with a request that is to be sent again."""

    kinds = TELLING
    retry = LATE
    stays_connected = False
    closes_client = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.send(client, stage.request(mark=REFUSED))
        stage.let_retry(client)
        self.end(client)

    def end(self, client: Any) -> None:
        client.close()


class RetryDrained(RetryClosed):
    """The client is drained with a request that is to be sent again."""

    def end(self, client: Any) -> None:
        client.drain()


class RetryLost(Scenario):
    """The connection breaks with requests in flight, some of which may run twice."""

    kinds = SOCKETS
    retry = SOON
    stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(mark=WAITS))
        stage.start(stage.call, client, stage.request(mark=WAITS, idempotent=True))
        stage.start(stage.call, client, stage.request(LARGE))
        stage.wait_until_begun()
        stage.cast(client)
        stage.cut()
        stage.start(stage.release.set)
        stage.call(client, stage.request())


class MoveOfDrained(Scenario):
    """One of two servers drains, with requests in flight and in the queue, which go to the other one."""

    kinds = SEVERAL
    servers = 2
    retry = SOON
    stays_connected = False
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        for _ in range(2):
            stage.start(stage.call, client, stage.request(mark=WAITS))
            stage.start(stage.call, client, stage.request(LARGE))
        stage.wait_until_begun()
        stage.let_arrive()
        stage.start(stage.release.set)
        stage.cast(client)
        stage.server.drain()
        stage.call(client, stage.request())


class MoveOfClosed(Scenario):
    """One of two servers is closed with requests in flight and in the queue."""

    kinds = SEVERAL
    servers = 2
    middleware = True
    retry = SOON
    stays_connected = False
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        for _ in range(2):
            stage.start(stage.call, client, stage.request(mark=WAITS, idempotent=True))
            stage.start(stage.call, client, stage.request())
        stage.wait_until_begun()
        stage.let_arrive()
        stage.server.close()
        stage.start(stage.release.set)
        stage.call(client, stage.request())


SCENARIOS: tuple[type[Scenario], ...] = (
    Call,
    LargeCall,
    CallMany,
    TimeOutOfMany,
    Casts,
    CancelQueued,
    CancelRunning,
    TimeOut,
    Link,
    ByHand,
    Batches,
    Connect,
    Lost,
    CloseClient,
    DrainClient,
    CloseServer,
    DrainServer,
    Middleware,
    MiddlewareOfCodec,
    MiddlewareOfTimeOut,
    MiddlewareOfCancel,
    RetryRefused,
    RetryMany,
    RetryCancelled,
    RetryOutOfTime,
    RetryClosed,
    RetryDrained,
    RetryLost,
    MoveOfDrained,
    MoveOfClosed,
)
