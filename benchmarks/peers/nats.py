"""NATS: a client and a responder by its asyncio client, on uvloop, with a broker between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import nats
from nats.aio.msg import Msg

from benchmarks import programs
from benchmarks.common import MESSAGE, Figures, Server
from benchmarks.peers.asyncio import closed_loop, run

SUBJECT = "echo"


def serve(ready: Callable[..., None]) -> None:
    """A broker, and a responder that echoes."""

    async def respond(message: Msg) -> None:
        await message.respond(message.data)

    async def main() -> None:
        port, broker = programs.start_server("nats-server", lambda port: ["-a", "127.0.0.1", "-p", str(port)])
        address = f"127.0.0.1:{port}"
        connection = await nats.connect(f"nats://{address}")
        await connection.subscribe(SUBJECT, cb=respond)
        await connection.flush()
        ready(address, os.getpid(), broker.pid)
        await asyncio.Event().wait()

    run(main, on_uvloop=True)


def tasks(seconds: float, server: Server, tasks: int) -> Figures:
    """Tasks that share one connection, with one request at a time each."""

    async def main() -> Figures:
        async def exchange() -> None:
            await connection.request(SUBJECT, MESSAGE)

        connection = await nats.connect(f"nats://{server[0]}")
        await exchange()
        figures = await closed_loop([exchange] * tasks, seconds, server)
        await connection.close()
        return figures

    return run(main, on_uvloop=True)
