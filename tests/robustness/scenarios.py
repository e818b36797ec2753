"""The scenarios of `robustness.interrupts`: what happens on the stage while the interrupt is armed."""

from __future__ import annotations

from typing import Any

from gevent.event import AsyncResult

from ratchet import BusClosed
from robustness.stage import LARGE, SMALL, Failure, Stage


class Scenario:
    """What happens while the interrupt is armed."""

    on_local = True
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
        attempts = [stage.request(), stage.request(waits=True), stage.request()]
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
        stage.send(client, stage.request(waits=True))
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
        attempt = stage.request(waits=True)
        transaction = stage.send(client, attempt)
        stage.wait_until_begun()
        transaction.cancel()
        stage.receive(attempt, transaction)


class TimeOut(Scenario):
    """The time of two requests is over: of one that is handled, and of one that waits."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True), 0.005)
        stage.call(client, stage.request(), 0.004)


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

    on_local = False
    connects = stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        opened = stage.connect()
        stage.call(opened, stage.request())
        opened.close()


class Lost(Scenario):
    """The connection breaks with requests in flight; then there is another one."""

    on_local = False
    stays_connected = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
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
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.cast(client)
        stage.send(client, stage.request())
        client.close()


class DrainClient(Scenario):
    """The client is drained with requests in flight."""

    on_local = False
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
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.send(client, stage.request())
        stage.let_arrive()
        stage.server.close()


class DrainServer(Scenario):
    """The server is drained with requests in flight and in the queue."""

    stays_connected = False
    closes_server = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.send(client, stage.request())
        stage.let_arrive()
        stage.start(stage.release.set)
        stage.server.drain()


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
)
