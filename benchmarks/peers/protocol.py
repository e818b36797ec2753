"""A bare asyncio Protocol, on its own loop and on uvloop's, with as much in a frame as ours has.

A frame is written at once, or joined with the others of a turn of the loop, which is what
somebody does who has many requests in flight and looks where the time goes.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

from benchmarks.common import MESSAGE, Figures, Server, target
from benchmarks.peers.asyncio import Exchange, Window, closed_loop, run

# The length of the body, and an id.
HEAD = struct.Struct(">II")


class Framed(asyncio.Protocol):
    """Takes frames apart, and makes them."""

    def __init__(self, joined: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._frames: list[bytes] = []
        self._joined = joined

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not derived from this class.
        self.transport = cast(asyncio.Transport, transport)
        self._write = self._join if self._joined else self.transport.write

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        begin = 0
        while begin + HEAD.size <= len(data):
            size, id = HEAD.unpack_from(data, begin)
            body = begin + HEAD.size
            end = body + size
            if end > len(data):
                break
            self.received(id, data[body:end])
            begin = end
        self._rest = data[begin:]

    def received(self, id: int, body: bytes) -> None:
        raise NotImplementedError

    def send(self, id: int, body: bytes) -> None:
        self._write(HEAD.pack(len(body), id) + body)

    def _join(self, frame: bytes) -> None:
        if not self._frames:
            self._loop.call_soon(self._write_joined)
        self._frames.append(frame)

    def _write_joined(self) -> None:
        self.transport.write(b"".join(self._frames))
        self._frames.clear()


class EchoServer(Framed):
    def received(self, id: int, body: bytes) -> None:
        self.send(id, body)


class Client(Framed):
    """Requests, each with a future for its response."""

    def __init__(self, joined: bool) -> None:
        super().__init__(joined)
        self._last_id = 0
        self._open: dict[int, asyncio.Future[bytes]] = {}

    def request(self, body: bytes) -> asyncio.Future[bytes]:
        self._last_id += 1
        future = self._open[self._last_id] = self._loop.create_future()
        self.send(self._last_id, body)
        return future

    def received(self, id: int, body: bytes) -> None:
        self._open.pop(id).set_result(body)


def serve(ready: Callable[[str], None], on_uvloop: bool, joined: bool = False) -> None:
    """A server that echoes frames."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(partial(EchoServer, joined), "127.0.0.1", 0, backlog=1024)
        ready("{}:{}".format(*server.sockets[0].getsockname()))
        await server.serve_forever()

    run(main, on_uvloop)


async def connected(server: Server, joined: bool) -> Client:
    _, where = target(server[0])
    assert isinstance(where, tuple)
    _, client = await asyncio.get_running_loop().create_connection(partial(Client, joined), *where)
    assert await client.request(MESSAGE) == MESSAGE
    return client


def connections(
    seconds: float, server: Server, connections: int, on_uvloop: bool, tasks: int = 1, joined: bool = False
) -> Figures:
    """Connections that so many tasks share each, one request of each task at a time."""

    def exchange_on(client: Client) -> Exchange:
        async def exchange() -> None:
            await client.request(MESSAGE)

        return exchange

    async def main() -> Figures:
        clients = [await connected(server, joined) for _ in range(connections)]
        figures = await closed_loop([exchange_on(each) for each in clients] * tasks, seconds, server)
        for client in clients:
            client.transport.close()
        return figures

    return run(main, on_uvloop)


def in_flight(
    seconds: float, server: Server, requests: int, on_uvloop: bool, joined: bool = False
) -> Figures:
    """One task on one connection, with so many requests in flight."""

    async def main() -> Figures:
        client = await connected(server, joined)
        window = Window(seconds, server)
        open_requests = deque(client.request(MESSAGE) for _ in range(requests))
        done = 0
        while open_requests:
            await open_requests.popleft()
            done += 1
            if window.open:
                open_requests.append(client.request(MESSAGE))
        client.transport.close()
        return window.figures(done)

    return run(main, on_uvloop)
