"""Services over a real broker, for tests: their sides, in this process or others, and a line to cut."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

import gevent
from gevent import socket
from gevent.event import Event
from gevent.hub import get_hub
from pamqp.commands import Queue

from broker.processes import end, listens
from helpers import wait_until
from ratchet import BusError, bus
from ratchet.bus import codecs
from ratchet.bus._broker import topology
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link import Link
from ratchet.bus._broker.url import parse
from ratchet.bus._core.limits import checked_limits
from ratchet.bus._transport.dial import dial

_PROGRAM = """
import os, sys
from ratchet import Ratchet, bus, thread
from ratchet.bus import codecs

def handle(request, transaction):
    do, *arguments = request
    print(os.getpid(), *request, flush=True)
    if do == "sleep":
        thread.timer(arguments[0])
    if do == "die" or (do == "die once" and not transaction.redelivered):
        os.kill(os.getpid(), 9)
    return [os.getpid(), transaction.redelivered]

url, service, prefetch, redeliver, workers = sys.argv[1:]
with Ratchet() as kernel:
    server = bus.broker_server(
        url, service, codec=codecs.json, prefetch=int(prefetch), redeliver=int(redeliver)
    )
    kernel.attach(server.serve, handle, workers=int(workers))
"""


class Declared:
    """Sends methods on a link of its own, and closes it when they are answered."""

    def __init__(self, url: str, methods: topology.Methods) -> None:
        parsed = parse(url)
        self.done = False
        self.failure: LinkFailure | None = None
        transport, peer = dial(next(each for each in parsed.endpoints if listens(each.port)))
        self.link = Link(get_hub(), transport, peer, parsed, checked_limits(None), 0, self, methods)
        self.link.open()
        wait_until(lambda: self.failure is not None, "the end of a link")
        assert self.done, self.failure

    def link_ready(self) -> None:
        self.done = True
        self.link.close()

    def link_lost(self, failure: LinkFailure) -> None:
        self.failure = failure

    def delivered(self, delivery: Any) -> None: ...
    def returned(self, returned: Any) -> None: ...
    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None: ...
    def blocked(self, reason: str | None) -> None: ...
    def writable(self) -> None: ...


class ServerProcess:
    """A server in a process of its own, which answers with its id and whether it was redelivered.

    A request is `["echo"]`, `["sleep", seconds]`, `["die"]` or `["die once"]`.
    """

    def __init__(self, url: str, service: str, prefetch: int, redeliver: int, workers: int) -> None:
        arguments = [url, service, str(prefetch), str(redeliver), str(workers)]
        self._output = TemporaryFile()  # noqa: SIM115  # closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def runs(self) -> list[str]:
        """What it has begun to run, a line for each."""
        # Where the process writes is not moved by that.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode().splitlines()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        end(self._process)

    def close(self) -> None:
        self.kill()
        self._output.close()


class Proxy:
    """Passes on what a node and its clients say, as long as it may."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._threads: list[Any] = []
        self._sockets: list[Any] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}/"
        self._passes = Event()
        self._passes.set()
        self._threads.append(gevent.spawn(self._accept))

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                self._threads.append(gevent.spawn(self._pass_on, source, target))

    def _pass_on(self, source: Any, target: Any) -> None:
        try:
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            each.close()

    def hold(self) -> None:
        """Pass nothing on for now."""
        self._passes.clear()

    def cut(self) -> None:
        """Lose all connections that there are; new ones are passed on."""
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._passes.set()

    def close(self) -> None:
        gevent.killall(self._threads)
        for each in (*self._sockets, self._listener):
            each.close()


class Service:
    """A service with a name of its own, whose queues are gone at the end of the test."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self.name = f"test-{uuid4().hex[:12]}"
        self._stack = stack
        self._clients: list[Any] = []
        stack.callback(self.delete)
        stack.callback(self._close_clients)

    def delete(self) -> None:
        """Delete its queues by hand."""
        queues = topology.request_queue(self.name), topology.dead_queue(self.name)
        Declared(self.url, [Queue.Delete(queue=queue) for queue in queues])

    def server(self, url: str | None = None, **options: Any) -> Any:
        """A server that is connected."""
        server = bus.broker_server(url or self.url, self.name, **{"codec": codecs.json, **options})
        self._stack.callback(server.close)
        server.wait_connected(20)
        return server

    def client(self, url: str | None = None, **options: Any) -> Any:
        """A client that is connected; it does not retry."""
        given = {"codec": codecs.json, "retry": None, **options}
        client = bus.broker_client(url or self.url, self.name, **given)
        self._clients.append(client)
        client.wait_connected(20)
        return client

    def forget(self, client: Any) -> None:
        """Keep a client no longer, and do not close it."""
        self._clients.remove(client)

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def process(self, prefetch: int = 128, redeliver: int = 0, workers: int = 64) -> ServerProcess:
        """A server in a process of its own, which takes requests."""
        process = ServerProcess(self.url, self.name, prefetch, redeliver, workers)
        self._stack.callback(process.close)
        return process

    def proxy(self, port: int) -> Proxy:
        """A line to a node that can be cut."""
        proxy = Proxy(port)
        self._stack.callback(proxy.close)
        return proxy

    def wait_for_processes(self, client: Any, *processes: ServerProcess) -> None:
        """Wait until each of these has answered."""
        pids: set[int] = set()
        for _ in itertools.count():
            try:
                pids.add(client.call(["echo"], timeout=5)[0])
            except BusError:
                gevent.sleep(0.02)
            if pids >= {process.pid for process in processes}:
                return
