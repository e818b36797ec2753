"""`ratchet stats`: the counters that a program serves, once or again and again."""

from __future__ import annotations

import json
import signal

import pytest

from cli.conftest import Ratchet
from cli.programs import Peer, echo_all, one_line, read_until, scripted, started
from helpers import LONG
from ratchet.bus._socket import wire

COUNTERS = {
    "shop": {"answered": 1234567, "load": 0.25, "latency": {"p50": 0.001}},
    "up": True,
    "host": "one\ntwo",
    "none": None,
}


def answer_once(peer: Peer) -> None:
    kind, _, id, _, parts = peer.receive()
    assert (kind, parts) == (wire.REQUEST, [b"null"])
    peer.send(wire.encode(wire.RESPONSE, 0, id, 0, [json.dumps(COUNTERS).encode()]))
    peer.wait_for_end()


def test_counters_for_reading(ratchet: Ratchet) -> None:
    with scripted(answer_once) as address:
        program = ratchet("stats", address)
    assert (program.returncode, program.stderr) == (0, b"")
    assert program.stdout.decode().splitlines() == [
        "shop:",
        "  answered  1,234,567",
        "  load      0.25",
        "  latency:",
        "    p50  0.001",
        "up    True",
        "host  one two",
        "none  None",
    ]


def test_json(ratchet: Ratchet) -> None:
    with scripted(answer_once) as address:
        program = ratchet("stats", address, "--json")
    assert (program.returncode, program.stderr) == (0, b"")
    assert json.loads(program.stdout) == COUNTERS
    assert program.stdout.count(b"\n") == 1


def test_again_and_again_although_it_fails_once() -> None:
    with scripted(answer_once, Peer.receive, answer_once) as address:
        with started("stats", address, "--json", "--every", 0.01) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            for _ in range(2):
                assert json.loads(program.stdout.readline()) == COUNTERS
            assert f"the connection to {address} was lost" in read_until(program.stderr, "ratchet: ")
            program.send_signal(signal.SIGINT)
            assert program.wait(LONG) == 130


def test_for_reading_each_time_is_a_paragraph() -> None:
    with scripted(answer_once, answer_once) as address:
        with started("stats", address, "--every", 0.01) as program:
            assert program.stdout is not None
            text = read_until(program.stdout, "none")
            assert read_until(program.stdout, "none") == f"\n{text}"


@pytest.mark.parametrize("conversation", [echo_all, Peer.receive])
def test_a_program_that_serves_something_else(ratchet: Ratchet, conversation: object) -> None:
    assert callable(conversation)
    with scripted(conversation) as address:
        program = ratchet("stats", address)
    assert (program.returncode, program.stdout) == (1, b"")
    assert one_line(program).endswith("; does the program serve its stats there?")
