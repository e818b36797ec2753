"""The two programs of the Ratchet library's manual for Lua, carried over in meaning.

Each runs in threads of a scheduler, as there: a server receives one request,
starts the second client, receives its request too, and then answers both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gevent import socket

from ratchet import Ratchet, bus, thread

Responses = list[tuple[str, object]]


def answer_in_this_thread(answer: Callable[[], None]) -> None:
    answer()


def answer_in_another_thread(answer: Callable[[], None]) -> None:
    thread.attach(answer)


answered_by = pytest.mark.parametrize("answered_by", [answer_in_this_thread, answer_in_another_thread])


# Within a process.


@answered_by
def test_the_program_for_a_local_bus(answered_by: Callable[[Callable[[], None]], None]) -> None:
    responses: Responses = []
    server_bus, client_bus = bus.new_local()

    def server() -> None:
        first, request = server_bus.recv_request()
        assert request == {"data": "important question!"}

        thread.attach(client_2)

        second, request = server_bus.recv_request()
        assert request == 1337

        def answer() -> None:
            assert first.send_response({"data": "important answer!"}) is True
            assert second.send_response("yes") is True

        answered_by(answer)

    def client_1() -> None:
        transaction = client_bus.send_request({"data": "important question!"})
        responses.append(("client 1", transaction.recv_response()))

    def client_2() -> None:
        transaction = client_bus.send_request(1337)
        responses.append(("client 2", transaction.recv_response()))

    def main() -> None:
        thread.attach(server)
        thread.attach(client_1)

    kernel = Ratchet(main)
    kernel.loop()
    assert kernel.num_threads == 0
    assert sorted(responses, key=str) == [
        ("client 1", {"data": "important answer!"}),
        ("client 2", "yes"),
    ]


# Over sockets.


def request_to_bus(request: dict[str, str]) -> tuple[bytes, list[bytes]]:
    return request["id"].encode(), [request["stuff"].encode()]


def request_from_bus(data: bytes, attachments: list[bytes]) -> dict[str, str]:
    return {"id": data.decode(), "stuff": attachments[0].decode()}


def response_to_bus(response: int) -> bytes:
    return str(response).encode()


def response_from_bus(data: bytes) -> int:
    return int(data)


FALCON = {"id": "operation falcon", "stuff": "important"}
CONDOR = {"id": "operation condor", "stuff": "confidential"}


def listening(family: str, directory: Any) -> Any:
    if family == "tcp":
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / "bus"))
    listener.listen()
    return listener


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("plain", [False, True], ids=["extended", "plain"])
@answered_by
def test_the_program_for_sockets(
    tmp_path: Any, family: str, plain: bool, answered_by: Callable[[Callable[[], None]], None]
) -> None:
    responses: Responses = []
    listener = listening(family, tmp_path)
    name = listener.getsockname()

    def server() -> None:
        with bus.new_server(listener, request_from_bus, response_to_bus) as server_bus:
            first, request = server_bus.recv_request()
            assert request == FALCON

            thread.attach(client, "client 2", CONDOR)

            second, request = server_bus.recv_request()
            assert request == CONDOR

            def answer() -> None:
                assert first.send_response(1337) is True
                assert second.send_response(7357) is True

            answered_by(answer)
            assert server_bus.drain() is True

    def client(who: str, request: dict[str, str]) -> None:
        connected = socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX)
        connected.connect(name)
        with bus.new_client(connected, request_to_bus, response_from_bus, plain=plain) as client_bus:
            transaction = client_bus.send_request(request)
            responses.append((who, transaction.recv_response()))

    def main() -> None:
        thread.attach(server)
        thread.attach(client, "client 1", FALCON)

    kernel = Ratchet(main)
    kernel.loop()
    assert kernel.num_threads == 0
    assert sorted(responses) == [("client 1", 1337), ("client 2", 7357)]
