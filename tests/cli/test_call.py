"""`ratchet call`: requests in every form, responses as they are, and a status for every outcome."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Ratchet
from cli.programs import Peer, one_line, read_terminal, run, scripted, serving, speak_http
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire
from ratchet.cli import new_parser
from ratchet.cli.call import laid_out, parse_json

EVERY_BYTE = bytes(range(256))


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with serving("handlers:echo") as (_, address):
        yield address


def test_the_response_to_text(echo: str) -> None:
    program = run("call", echo, "grüße")
    assert (program.returncode, program.stdout, program.stderr) == (0, "grüße".encode(), b"")


@pytest.mark.parametrize("request_", [[], ["-"], ["@-"]], ids=["missing", "-", "@-"])
def test_a_request_from_stdin(echo: str, request_: list[str]) -> None:
    program = run("call", echo, *request_, input=EVERY_BYTE)
    assert (program.returncode, program.stdout) == (0, EVERY_BYTE)


def test_a_request_from_a_file(ratchet: Ratchet, echo: str, tmp_path: Path) -> None:
    (tmp_path / "request").write_bytes(EVERY_BYTE * 1000)
    program = ratchet("call", echo, "@request", cwd=tmp_path)
    assert (program.returncode, program.stdout) == (0, EVERY_BYTE * 1000)


@pytest.mark.parametrize(
    "arguments",
    [
        "host:80 --timeout 9 request",
        "--timeout 9 host:80 request",
        "host:80 request --timeout 9",
        "host:80 --timeout 9 -- request",
        "host:80 --json --timeout 9 --plain request --tls",
    ],
)
def test_options_may_stand_anywhere(arguments: str) -> None:
    parsed = new_parser().parse_args(["call", *arguments.split()])
    assert (parsed.address, parsed.request, parsed.timeout) == ("host:80", "request", 9)


@pytest.mark.parametrize("response", ["no newline", "a newline\n"])
def test_on_a_terminal_the_response_ends_its_line(echo: str, response: str) -> None:
    master, slave = os.openpty()
    try:
        program = run("call", echo, response, stdout=slave)
        assert program.returncode == 0
        assert read_terminal(master, b"\n") == response.strip().encode() + b"\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_json_is_laid_out(ratchet: Ratchet, echo: str) -> None:
    value = {"name": "Grüße", "prices": [1, 2.5, None], "lone surrogate": "\ud800"}
    program = ratchet("call", echo, json.dumps(value), "--json")
    assert program.returncode == 0
    assert program.stdout == laid_out(json.dumps(value).encode())
    assert json.loads(program.stdout) == value
    assert program.stdout.count(b"\n") == 9
    assert "Grüße".encode() in program.stdout


@pytest.mark.parametrize("data", [b"", b"{", b"{} {}", b"NaN", b"-Infinity", b"\xff", b"[" * 100_000])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"]" * 100_000, b"1e999"], ids=["deep", "large"])
def test_json_that_python_cannot_lay_out(data: bytes) -> None:
    with pytest.raises(ValueError):
        laid_out(data)


def test_a_response_that_is_no_json_is_not_lost(ratchet: Ratchet) -> None:
    with scripted(lambda peer: answer(peer, b"\xffno JSON")) as address:
        program = ratchet("call", address, "1", "--json")
    assert (program.returncode, program.stdout) == (6, b"\xffno JSON")
    assert "the response is not JSON" in one_line(program)


def answer(peer: Peer, *parts: bytes) -> None:
    """Send a response of these parts."""
    kind, _, id, _, _ = peer.receive()
    assert kind == wire.REQUEST
    peer.send(wire.encode(wire.RESPONSE, 0, id, 0, parts))
    peer.wait_for_end()


def test_attachments_are_mentioned(ratchet: Ratchet) -> None:
    with scripted(lambda peer: answer(peer, b"body", b"one", b"two")) as address:
        program = ratchet("call", address, "x")
    assert (program.returncode, program.stdout) == (0, b"body")
    assert one_line(program) == "the response has 2 attachments too, which are not shown"


def test_a_server_in_lua_is_called_in_the_plain_form(ratchet: Ratchet) -> None:
    def conversation(peer: Peer) -> None:
        kind, _, _, _, parts = peer.receive()
        assert (kind, parts) == (wire.PLAIN, [b"request"])
        peer.send(wire.encode(wire.PLAIN, 0, 0, 0, [b"response"]))

    with scripted(conversation) as address:
        program = ratchet("call", "--plain", address, "request")
    assert (program.returncode, program.stdout, program.stderr) == (0, b"response", b"")


# What went wrong, and whether the request ran.


def test_the_handler_raised() -> None:
    with serving("handlers:fail") as (_, address):
        program = run("call", address, "x")
    assert (program.returncode, program.stdout) == (6, b"")
    traceback, _, line = program.stderr.decode().rstrip().rpartition("\n")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert 'raise LookupError(f"no such thing' in traceback
    assert line.startswith("ratchet: the handler raised LookupError: no such thing: b'x'; the request ran")


def test_the_request_cannot_be_decoded(ratchet: Ratchet) -> None:
    with serving("handlers:item_of", "--codec", "json") as (_, address):
        program = ratchet("call", address, "{")
    assert program.returncode == 4
    assert b"\nratchet: the server could not decode the request: JSONDecodeError: " in program.stderr


def refuse(peer: Peer) -> None:
    peer.send(wire.encode_error(peer.receive()[2], Reason.OVERLOADED, ("Rejected", "too much", "")))
    peer.wait_for_end()


def test_the_server_refuses(ratchet: Ratchet) -> None:
    with scripted(refuse) as address:
        program = ratchet("call", address, "x")
    assert program.returncode == 4
    assert one_line(program) == f"too much ({address}); the request did not run, so it is safe to call again"


def test_the_connection_is_lost() -> None:
    with scripted(Peer.receive) as address:
        program = run("call", address, "x")
    assert program.returncode == 5
    assert one_line(program).startswith(f"the connection to {address} was lost (the server closed")


def test_a_server_of_another_kind(ratchet: Ratchet) -> None:
    with scripted(speak_http) as address:
        program = ratchet("call", address, "x")
    # Its answer may come before the request has left.
    assert program.returncode in (3, 5)
    assert one_line(program).startswith(f"{address} does not speak the wire format of ratchet")


def test_no_answer_in_time(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end) as address:
        program = ratchet("call", address, "x", "--timeout", 0.5)
    assert program.returncode == 5
    assert one_line(program).startswith(f"{address} did not answer within 0.5 s; nobody knows")


def test_the_server_is_told_how_much_time_there_is(ratchet: Ratchet) -> None:
    left = []

    def conversation(peer: Peer) -> None:
        _, _, id, milliseconds, _ = peer.receive()
        left.append(milliseconds)
        peer.send(wire.encode(wire.RESPONSE, 0, id, 0, [b""]))

    with scripted(conversation) as address:
        assert ratchet("call", address, "x", "--timeout", 7).returncode == 0
    assert 0 < left[0] <= 7000


def test_a_request_over_the_limit(ratchet: Ratchet) -> None:
    with serving("handlers:echo") as (_, address):
        program = ratchet("call", address, input=bytes(17 * 1024 * 1024))
    assert program.returncode == 3
    assert "over the limit" in one_line(program)


def test_a_server_that_does_not_accept_is_given_up_in_time(ratchet: Ratchet, tmp_path: Path) -> None:
    # Every connection over the backlog waits, for a Unix socket.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "socket"))
            began = time.monotonic()
            program = ratchet("call", f"unix:{tmp_path}/socket", "x", "--timeout", 0.3)
            assert time.monotonic() - began < 10
    assert program.returncode == 3
    assert one_line(program)
