"""Which errors that reach the hub come out of `loop()`, and which are only reported there."""

from __future__ import annotations

import _socket
import errno
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer
from gevent.socket import create_connection, getaddrinfo

import ratchet
from helpers import LONG
from ratchet import BusTimeout, Ratchet, bus, thread


@pytest.fixture
def unresolvable(monkeypatch: pytest.MonkeyPatch) -> str:
    """A host of which the name server knows nothing; it knows all others."""
    name = "no-such-host.invalid"
    right = _socket.getaddrinfo

    def ask(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in (name, name.encode()):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return right(host, *arguments, **options)

    monkeypatch.setattr(_socket, "getaddrinfo", ask)
    return name


def fail() -> None:
    raise KeyError("a job of the thread pool")


def test_an_error_of_the_thread_pool_that_is_caught_is_caught() -> None:
    def main() -> str:
        with pytest.raises(KeyError):
            get_hub().threadpool.apply(fail)
        thread.timer(0.01)
        return "went on"

    assert ratchet.run(main) == "went on"


def test_an_error_of_the_thread_pool_that_nobody_catches_is_that_of_its_thread() -> None:
    with pytest.raises(KeyError) as raised:
        ratchet.run(lambda: get_hub().threadpool.apply(fail))
    assert raised.value.args == ("a job of the thread pool",)


def test_a_name_that_does_not_resolve_ends_nothing(unresolvable: str) -> None:
    def main() -> str:
        with pytest.raises(OSError, match="not known"):
            getaddrinfo(unresolvable, 80)
        with bus.connect(f"{unresolvable}:80") as client:
            with pytest.raises(BusTimeout, match="not known"):
                client.call(b"question", timeout=0.5)
        return "went on"

    assert ratchet.run(main) == "went on"


def test_of_several_servers_one_whose_name_does_not_resolve_is_in_nobodys_way(unresolvable: str) -> None:
    def main() -> object:
        with bus.listen("127.0.0.1:0") as server:
            thread.attach_background(server.serve, bytes.upper)
            port = server.address[1]
            with bus.connect([f"{unresolvable}:{port}", f"127.0.0.1:{port}"]) as client:
                return client.call(b"question", timeout=LONG)

    assert ratchet.run(main) == b"QUESTION"


def test_an_error_that_a_web_server_answers_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def application(environ: object, start: Callable[..., object]) -> list[bytes]:
        raise KeyError("a page")

    def main() -> bytes:
        server = WSGIServer(("127.0.0.1", 0), application, log=None)
        server.start()
        try:
            with create_connection(("127.0.0.1", server.server_port)) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = bytes(connection.recv(1000))
            thread.timer(0.01)
            return answer
        finally:
            server.stop()

    answer = ratchet.run(main)
    assert answer is not None
    assert b"500 Internal Server Error" in answer
    # As without a scheduler.
    assert "KeyError: 'a page'" in capfd.readouterr().err


def test_a_server_that_cannot_accept_and_tries_again_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files")]
    right = StreamServer.do_read

    def fail_once(server: StreamServer) -> Any:
        if failures:
            raise failures.pop()
        return right(server)

    monkeypatch.setattr(StreamServer, "do_read", fail_once)

    def main() -> bytes:
        server = StreamServer(("127.0.0.1", 0), lambda connection, address: connection.sendall(b"hello"))
        server.start()
        try:
            with create_connection(("127.0.0.1", server.server_port)) as connection:
                return bytes(connection.recv(10))
        finally:
            server.stop()

    assert ratchet.run(main) == b"hello"
    assert "Too many open files" in capfd.readouterr().err


@pytest.mark.parametrize("link", [False, True])
def test_an_error_of_a_callback_that_nobody_catches_comes_out_of_loop(link: bool) -> None:
    def break_down(*arguments: object) -> None:
        raise KeyError("a callback")

    kernel = Ratchet()
    if link:
        other = gevent.spawn(int)
        other.rawlink(break_down)
    else:
        get_hub().loop.run_callback(break_down)
    kernel.attach(thread.timer, 60)
    with pytest.raises(KeyError, match="a callback"):
        kernel.loop()
    kernel.close()
