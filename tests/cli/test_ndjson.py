"""`ratchet call --ndjson`: a line for each line, in order, while the input goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Ratchet
from cli.programs import HERE, Peer, echo_all, nobody, one_line, run, scripted, serving, started
from helpers import LONG
from ratchet.bus._socket import wire


@pytest.fixture(scope="module")
def divider() -> Iterator[str]:
    with serving("handlers:divide_100", "--codec", "json") as (_, address):
        yield address


def values(output: bytes) -> list[object]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_line_for_each_line_in_order(ratchet: Ratchet, divider: str, tmp_path: Path) -> None:
    numbers = list(range(1, 41))
    (tmp_path / "requests").write_text("".join(f"{number}\r\n\n" for number in numbers))
    program = ratchet("call", divider, "@requests", "--ndjson", cwd=tmp_path)
    assert (program.returncode, program.stderr) == (0, b"")
    assert values(program.stdout) == [100 // number for number in numbers]


def test_lines_on_the_command_line(ratchet: Ratchet, divider: str) -> None:
    program = ratchet("call", divider, "4\n5", "--ndjson")
    assert (program.returncode, program.stdout) == (0, b"25\n20\n")


@pytest.mark.parametrize("request_", ["-", "@-"])
def test_no_lines(divider: str, request_: str) -> None:
    program = run("call", divider, request_, "--ndjson", stdin=subprocess.DEVNULL)
    assert (program.returncode, program.stdout, program.stderr) == (0, b"", b"")


def test_an_error_is_a_line_too(ratchet: Ratchet, divider: str) -> None:
    program = ratchet("call", divider, "4\n0\nno JSON\n10", "--ndjson")
    assert (program.returncode, program.stderr) == (1, b"")
    first, remote, bad, last = values(program.stdout)
    assert (first, last) == (25, 10)
    assert remote == {
        "error": {
            "code": "remote_error",
            "outcome": "RAN",
            "message": "ZeroDivisionError: integer division or modulo by zero",
        }
    }
    assert isinstance(bad, dict)
    message = bad["error"].pop("message")
    assert bad == {"error": {"code": "bad_request", "outcome": "NOT_SENT"}}
    assert message.startswith("the request is not JSON (")


def test_a_response_that_does_not_fit_is_an_error(ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with scripted(Peer.wait_for_end, echo_all) as address:
        lines = '["a"]\n[""]'
        program = ratchet("call", address, lines, "--ndjson", "--codec", "handlers:letters", cwd=HERE)
    assert program.returncode == 1
    assert values(program.stdout) == [
        {"body": "YQ==", "photos": [], "stamps": [3]},
        {
            "error": {
                "code": "bad_response",
                "outcome": "RAN",
                "message": "the codec cannot decode the response (ValueError: an empty letter)",
            }
        },
    ]


def test_text_is_strings(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end, echo_all) as address:
        program = ratchet("call", address, '"Äpfel"', "--ndjson", "--codec", "text")
    assert (program.returncode, program.stdout) == (0, '"Äpfel"\n'.encode())


def test_output_comes_while_input_does(divider: str) -> None:
    with started("call", divider, "--ndjson", "--in-flight", 1, stdin=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in (1, 2, 50):
            # In two pieces, the first of which must not be taken for a line.
            program.stdin.write(f" {number}"[:2])
            program.stdin.flush()
            program.stdin.write(f" {number}\n"[2:])
            program.stdin.flush()
            assert program.stdout.readline() == f"{100 // number}\n"
        program.stdin.close()
        assert program.wait(LONG) == 0


def test_no_more_are_in_flight_than_was_said() -> None:
    ids = []

    def conversation(peer: Peer) -> None:
        first = [peer.receive()[2] for _ in range(2)]
        ids.extend(first)
        # The third one comes when the first one has been answered, and not when only the second has.
        peer.send(wire.encode(wire.RESPONSE, 0, first[1], 0, [b"2"]))
        peer.send(wire.encode(wire.PING, 0, 7, 0, ()))
        assert peer.receive()[0] == wire.PONG
        peer.send(wire.encode(wire.RESPONSE, 0, first[0], 0, [b"1"]))
        peer.send(wire.encode(wire.RESPONSE, 0, peer.receive()[2], 0, [b"3"]))
        peer.wait_for_end()

    # The first connection is a look whether there is a server.
    with scripted(Peer.wait_for_end, conversation) as address:
        program = run("call", address, "--ndjson", "--in-flight", 2, input=b"1\n2\n3\n")
    assert (program.returncode, program.stdout) == (0, b"1\n2\n3\n")
    assert len(ids) == 2


def test_no_server(ratchet: Ratchet) -> None:
    with nobody() as address:
        program = ratchet("call", address, "1", "--ndjson")
    assert (program.returncode, program.stdout) == (3, b"")
    assert one_line(program).startswith(f"nothing listens on {address} (")


@pytest.mark.parametrize("argument", ["@missing", "@."])
def test_a_file_that_cannot_be_read(ratchet: Ratchet, divider: str, argument: str, tmp_path: Path) -> None:
    program = ratchet("call", divider, argument, "--ndjson", cwd=tmp_path)
    assert program.returncode == 2
    assert one_line(program).startswith(f"cannot read the request from '{argument[1:]}' (")


def test_a_connection_that_is_lost_is_made_again(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end, Peer.receive, echo_all) as address:
        program = ratchet("call", address, "1\n2", "--ndjson", "--in-flight", 1)
    assert program.returncode == 1
    lost, answered = values(program.stdout)
    assert isinstance(lost, dict)
    assert (lost["error"]["code"], lost["error"]["outcome"]) == ("connection_lost", "UNKNOWN")
    assert answered == 2


def test_a_reader_that_has_gone_away_ends_it_quietly(divider: str) -> None:
    with started("call", divider, "--ndjson", stdin=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        program.stdin.write("2\n")
        program.stdin.flush()
        assert program.wait(LONG) == 141
        assert program.stderr.read() == ""


def test_ctrl_c(divider: str) -> None:
    with started("call", divider, "--ndjson", stdin=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("2\n")
        program.stdin.flush()
        assert program.stdout.readline() == "50\n"
        program.send_signal(signal.SIGINT)
        output, errors = program.communicate(timeout=LONG)
    assert (program.returncode, output, errors) == (130, "", "")
