"""asyncio's streams, on its own loop and on uvloop's, and its queue and futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from benchmarks.common import MESSAGE, Figures, Meter, Server, target

Result = TypeVar("Result")
Exchange = Callable[[], Coroutine[Any, Any, object]]

# A length, then that many bytes: the simplest frame that streams can take apart.
HEAD = 4
FRAME = len(MESSAGE).to_bytes(HEAD, "big") + MESSAGE


def run(main: Callable[[], Coroutine[Any, Any, Result]], on_uvloop: bool) -> Result:
    if not on_uvloop:
        return asyncio.run(main())
    # Only here: asyncio is measured even where uvloop is missing.
    import uvloop

    result: Result = uvloop.run(main())
    return result


async def receive_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(HEAD)
    return head + await reader.readexactly(int.from_bytes(head, "big"))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(await receive_frame(reader))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        writer.close()


def serve(ready: Callable[[str], None], on_uvloop: bool) -> None:
    """A server that echoes frames."""

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1024)
        ready("{}:{}".format(*server.sockets[0].getsockname()))
        await server.serve_forever()

    run(main, on_uvloop)


class Window:
    """The time in which exchanges count, as on gevent."""

    def __init__(self, seconds: float, server: Server | None) -> None:
        self.open = True
        asyncio.get_running_loop().call_later(seconds, self._close)
        self._meter = Meter(server)

    def figures(self, exchanges: int) -> Figures:
        return self._meter.figures(exchanges)

    def _close(self) -> None:
        self.open = False


async def closed_loop(exchanges: Sequence[Exchange], seconds: float, server: Server | None) -> Figures:
    """Each exchange in a task of its own, again as soon as it has ended."""

    async def work(exchange: Exchange) -> int:
        done = 0
        while window.open:
            await exchange()
            done += 1
        return done

    window = Window(seconds, server)
    return window.figures(sum(await asyncio.gather(*map(work, exchanges))))


def connections(seconds: float, server: Server, connections: int, on_uvloop: bool) -> Figures:
    """Connections with one request at a time each."""

    def exchange_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
        async def exchange() -> None:
            writer.write(FRAME)
            await writer.drain()
            await receive_frame(reader)

        return exchange

    async def main() -> Figures:
        _, where = target(server[0])
        streams = [await asyncio.open_connection(*where) for _ in range(connections)]
        figures = await closed_loop([exchange_on(*each) for each in streams], seconds, server)
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        return figures

    return run(main, on_uvloop)


def in_flight(seconds: float, server: Server, requests: int, on_uvloop: bool) -> Figures:
    """One task on one connection, with so many requests in flight."""

    async def main() -> Figures:
        _, where = target(server[0])
        reader, writer = await asyncio.open_connection(*where)
        writer.write(FRAME * requests)
        window = Window(seconds, server)
        done = 0
        while window.open:
            await receive_frame(reader)
            writer.write(FRAME)
            await writer.drain()
            done += 1
        figures = window.figures(done)
        writer.close()
        return figures

    return run(main, on_uvloop)


def local(seconds: float, clients: int) -> Figures:
    """A queue of requests, each with a future for its response."""

    async def answer(requests: asyncio.Queue[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        while True:
            request, future = await requests.get()
            future.set_result(request)

    async def main() -> Figures:
        async def exchange() -> None:
            future = loop.create_future()
            requests.put_nowait((MESSAGE, future))
            await future

        loop = asyncio.get_running_loop()
        requests: asyncio.Queue[tuple[bytes, asyncio.Future[bytes]]] = asyncio.Queue()
        server = loop.create_task(answer(requests))
        figures = await closed_loop([exchange] * clients, seconds, None)
        server.cancel()
        return figures

    return asyncio.run(main())
