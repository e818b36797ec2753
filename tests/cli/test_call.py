"""`ratchet call`: requests in every form, responses as they are, and a status for every outcome."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Ratchet
from cli.programs import (
    HERE,
    Peer,
    echo_all,
    nobody,
    one_line,
    read_terminal,
    run,
    scripted,
    serving,
    speak_http,
    started,
)
from helpers import LONG
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire
from ratchet.cli import new_parser
from ratchet.cli.forms import laid_out, parse_json

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
    assert program.stdout == laid_out(value)
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
        laid_out(parse_json(data))


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
    assert one_line(program).startswith("the response also has 2 attachments, which are not shown; ")


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
    assert program.stderr.endswith(b"or name its codec with --codec\n")


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
    assert one_line(program).startswith(f"{address} does not speak ratchet's wire format")


def test_no_answer_in_time(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end) as address:
        program = ratchet("call", address, "x", "--timeout", 0.5)
    assert program.returncode == 5
    assert one_line(program).startswith(f"{address} did not answer within 0.5 s; the request may have run")


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
    assert one_line(program).endswith("; nothing was sent; make the request smaller")


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


# Metadata, codecs, and waiting for a server.


def test_metadata(ratchet: Ratchet) -> None:
    requests = []

    def conversation(peer: Peer) -> None:
        _, flags, id, _, parts = peer.receive()
        requests.append((flags, parts))
        peer.send(wire.encode(wire.RESPONSE, 0, id, 0, [b""]))

    options = ["--metadata", "tenant=acme", "--metadata", "query=a=b", "--metadata", "no="]
    with scripted(conversation) as address:
        assert ratchet("call", address, "x", *options).returncode == 0
    [(flags, [body, metadata])] = requests
    assert (flags & wire.METADATA, body) == (wire.METADATA, b"x")
    assert json.loads(metadata) == {"tenant": "acme", "query": "a=b", "no": ""}


def test_the_plain_form_has_no_metadata(ratchet: Ratchet) -> None:
    program = ratchet("call", "host:80", "x", "--plain", "--metadata", "key=value")
    assert program.returncode == 2
    assert one_line(program) == "the plain form carries no metadata; leave out --metadata or --plain"


@pytest.mark.parametrize("options", [["--msgpack"], ["--codec", "msgpack"], ["--codec", "handlers:records"]])
def test_message_pack_is_json_on_the_command_line(
    ratchet: Ratchet, echo: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    program = ratchet("call", echo, '{"apples": 3}', *options, cwd=HERE)
    assert (program.returncode, program.stdout) == (0, b'{\n  "apples": 3\n}\n')
    raw = ratchet("call", echo, input=b"\x81\xa6apples\x03")
    assert raw.stdout == b"\x81\xa6apples\x03"


def test_what_json_does_not_know_is_shown_by_its_fields_and_as_text(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = json.dumps(["hello", "a photo"]).encode()

    monkeypatch.setattr(sys, "path", sys.path.copy())
    with scripted(echo_all) as address:
        program = ratchet("call", address, "--codec", "handlers:letters", input=letter, cwd=HERE)
    assert (program.returncode, program.stderr) == (0, b"")
    assert json.loads(program.stdout) == {"body": "aGVsbG8=", "photos": ["YSBwaG90bw=="], "stamps": [3]}


def test_text_is_text(ratchet: Ratchet, echo: str) -> None:
    program = ratchet("call", echo, "grüße", "--codec", "text")
    assert (program.returncode, program.stdout) == (0, "grüße".encode())
    program = ratchet("call", echo, "--codec", "text", input=b"\xff")
    assert program.returncode == 2
    assert one_line(program).startswith("the request is not text in UTF-8 (")


@pytest.mark.parametrize(
    ("request_", "codec", "problem"),
    [
        ("{", "msgpack", "the request is not JSON (Expecting"),
        ("3", "handlers:letters", "the codec cannot encode the request (TypeError: "),
        ("3", "handlers:echo", "handlers:echo is not a codec; name a ratchet.bus.Codec"),
        ("3", "handlers:no", "the module handlers has no no; check MODULE:NAME"),
        ("3", "no_such_module:codec", "there is no module no_such_module, here or installed"),
    ],
)
def test_a_request_that_does_not_fit_its_codec(
    ratchet: Ratchet, request_: str, codec: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    program = ratchet("call", "host:80", request_, "--codec", codec, cwd=HERE)
    assert (program.returncode, program.stdout) == (2, b"")
    assert one_line(program).startswith(problem)


@pytest.mark.parametrize(("codec", "request_"), [("msgpack", "1"), ("json", "1"), ("text", "x")])
def test_a_response_that_does_not_fit_its_codec_is_not_lost(
    ratchet: Ratchet, codec: str, request_: str
) -> None:
    with scripted(lambda peer: answer(peer, b"\xc1\xff")) as address:
        program = ratchet("call", address, request_, "--codec", codec)
    assert (program.returncode, program.stdout) == (6, b"\xc1\xff")
    assert one_line(program).endswith("so it is printed as it is; leave out --codec")


def test_waiting_for_a_server(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with started("call", address, "request", "--wait", LONG) as program:
        with serving("handlers:echo", address=address):
            output, errors = program.communicate(timeout=LONG)
    assert (program.returncode, output, errors) == (0, "request", "")


def test_waiting_in_vain(ratchet: Ratchet) -> None:
    with nobody() as address:
        program = ratchet("call", address, "x", "--wait", 0.1)
    assert program.returncode == 3
    problem = f"not connected to {address} within 0.1 s: [Errno 111] Connection refused"
    assert one_line(program) == f"{problem}; check that it starts, or wait longer with --wait"


def test_ctrl_c_while_it_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG)
        address = "{}:{}".format(*listener.getsockname())
        with started("call", address, "x", "--wait") as program:
            connected, _ = listener.accept()
            with connected:
                # The hello of the client, which waits in vain for that of the server.
                assert connected.recv(65536)
                program.send_signal(signal.SIGINT)
                output, errors = program.communicate(timeout=LONG)
    assert (program.returncode, output, errors) == (130, "", "")


def refuse_and_answer(peer: Peer) -> None:
    peer.send(wire.encode_error(peer.receive()[2], Reason.OVERLOADED, ("Rejected", "too much", "")))
    answer(peer, b"at last")


def test_what_has_not_run_is_sent_again(ratchet: Ratchet) -> None:
    with scripted(refuse_and_answer) as address:
        program = ratchet("call", address, "x", "--retry", 1)
    assert (program.returncode, program.stdout, program.stderr) == (0, b"at last", b"")


def test_it_is_not_sent_again_more_often_than_was_said(ratchet: Ratchet) -> None:
    def refuse_twice(peer: Peer) -> None:
        for _ in range(2):
            peer.send(wire.encode_error(peer.receive()[2], Reason.OVERLOADED, ("Rejected", "too much", "")))
        assert not [message for message in peer.receive_rest() if message[0] == wire.REQUEST]

    with scripted(refuse_twice) as address:
        program = ratchet("call", address, "x", "--retry", 1)
    assert program.returncode == 4
    assert one_line(program).startswith("too much")


def test_what_may_have_run_is_not_sent_again(ratchet: Ratchet) -> None:
    with scripted(Peer.receive) as address:
        program = ratchet("call", address, "x", "--retry", 3)
    assert program.returncode == 5
    assert "was lost" in one_line(program)


def test_a_server_that_is_not_there_is_tried_again(ratchet: Ratchet) -> None:
    with nobody() as address:
        program = ratchet("call", address, "x", "--retry", 3, "--timeout", 0.2)
    assert program.returncode == 3
    assert one_line(program).startswith(f"not connected to {address} within ")
    assert "Connection refused" in one_line(program)
