"""`ratchet ping`: round trips that no handler sees."""

from __future__ import annotations

import json
import re
import signal
import statistics
from collections.abc import Iterator

import pytest

from cli.conftest import Ratchet
from cli.programs import Peer, nobody, read_until, run, scripted, serving, speak_http, started
from helpers import LONG
from ratchet.bus._socket import wire
from ratchet.cli.ping import Pinger


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """One whose handler understands nothing."""
    with serving("handlers:fail") as (_, address):
        yield address


PONG = re.compile(r"pong from (\S+): seq=(\d+) time=(\d+\.\d{3}) ms")


def test_each_pong_and_a_summary(server: str) -> None:
    program = run("ping", server, "-c", 4, "-i", 0.01)
    assert (program.returncode, program.stderr) == (0, b"")
    lines = program.stdout.decode().splitlines()
    pongs = [PONG.fullmatch(line) for line in lines[:4]]
    times = []
    for number, pong in enumerate(pongs, 1):
        assert pong is not None
        assert (pong[1], pong[2]) == (server, str(number))
        times.append(float(pong[3]))
    assert lines[4:6] == ["", f"--- {server} ping statistics ---"]
    assert re.fullmatch(r"4 sent, 4 received, 0% lost, time \d+ ms", lines[6])
    summary = re.fullmatch(r"rtt min/avg/max/mdev = (\S+)/(\S+)/(\S+)/(\S+) ms", lines[7])
    assert summary is not None
    expected = [min(times), statistics.fmean(times), max(times), statistics.pstdev(times)]
    assert list(map(float, summary.groups())) == pytest.approx(expected, abs=0.002)
    assert len(lines) == 8


def test_the_interval_is_kept(ratchet: Ratchet, server: str) -> None:
    program = ratchet("ping", server, "-c", 4, "-i", 0.1)
    took = re.search(rb"time (\d+) ms\n", program.stdout)
    assert took is not None
    assert int(took[1]) >= 300


def test_it_goes_on_until_ctrl_c_and_sums_up(server: str) -> None:
    with started("ping", server, "-i", 0.01) as program:
        assert program.stdout is not None
        read_until(program.stdout, "seq=5 ")
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=LONG)
    assert program.returncode == 0
    assert errors == ""
    assert "ping statistics ---\n" in rest
    assert re.search(r"^\d+ sent, \d+ received, 0% lost", rest, re.MULTILINE)


def test_no_pong_in_time(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end) as address:
        program = ratchet("ping", address, "-c", 2, "-i", 0.01, "-W", 0.1)
    assert program.returncode == 1
    assert program.stdout.decode().splitlines()[:2] == [
        "no pong: seq=1 within 0.1 s",
        "no pong: seq=2 within 0.1 s",
    ]
    assert b"\n2 sent, 0 received, 100% lost, time " in program.stdout
    assert b"rtt" not in program.stdout


def pong(peer: Peer) -> None:
    kind, _, id, _, _ = peer.receive()
    assert kind == wire.PING
    peer.send(wire.encode(wire.PONG, 0, id, 0, ()))


def test_a_late_pong_is_not_taken_for_the_next_one(ratchet: Ratchet) -> None:
    def conversation(peer: Peer) -> None:
        late = peer.receive()[2]
        next_one = peer.receive()[2]
        peer.send(wire.encode(wire.PONG, 0, late, 0, ()))
        peer.send(wire.encode(wire.PONG, 0, next_one, 0, ()))
        peer.wait_for_end()

    with scripted(conversation) as address:
        program = ratchet("ping", address, "-c", 2, "-i", 0.01, "-W", 1)
    lines = program.stdout.decode().splitlines()
    assert program.returncode == 0
    assert lines[0] == "no pong: seq=1 within 1 s"
    assert PONG.fullmatch(lines[1])
    assert "2 sent, 1 received, 50% lost" in lines[4]


def test_a_lost_connection_is_made_again(ratchet: Ratchet) -> None:
    def answer_once(peer: Peer) -> None:
        pong(peer)

    def answer_and_wait(peer: Peer) -> None:
        pong(peer)
        peer.wait_for_end()

    with scripted(answer_once, answer_and_wait) as address:
        program = ratchet("ping", address, "-c", 3, "-i", 0.05)
    lines = program.stdout.decode().splitlines()
    assert program.returncode == 0
    assert "seq=1 time=" in lines[0]
    assert lines[1].startswith("no pong: seq=2 ")
    assert "seq=3 time=" in lines[2]


def test_why_there_is_no_connection_is_said_in_each_line() -> None:
    with nobody() as address:
        pinger = Pinger(address, LONG, None)
        for number in (1, 2):
            assert pinger.send(number) == (
                False,
                f"no pong: seq={number} nothing listens on {address} (Connection refused);"
                " is the server running?",
            )
    assert "2 sent, 0 received, 100% lost" in pinger.summary(1.0)


def test_a_server_that_speaks_something_else(ratchet: Ratchet) -> None:
    with scripted(speak_http) as address:
        program = ratchet("ping", address, "-c", 1)
    assert program.returncode == 1
    assert program.stdout.startswith(b"no pong: seq=1 ")


def test_nothing_to_sum_up() -> None:
    assert Pinger("127.0.0.1:1", 1.0, None).summary(0.5) == (
        "\n--- 127.0.0.1:1 ping statistics ---\n0 sent, 0 received, 0% lost, time 500 ms\n"
    )


def test_one_json_object(ratchet: Ratchet, server: str) -> None:
    program = ratchet("ping", server, "-c", 3, "-i", 0.01, "--json")
    assert (program.returncode, program.stderr) == (0, b"")
    assert program.stdout.count(b"\n") == 1
    figures = json.loads(program.stdout)
    times = figures.pop("round_trip")
    assert 0.02 <= figures.pop("seconds") < LONG
    assert figures == {"address": server, "sent": 3, "received": 3, "lost": 0}
    assert list(times) == ["min", "mean", "max", "deviation"]
    assert 0 < times["min"] <= times["mean"] <= times["max"] < LONG
    assert 0 <= times["deviation"] < times["max"]


def test_one_json_object_of_pings_that_were_lost(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end) as address:
        program = ratchet("ping", address, "-c", 2, "-i", 0.01, "-W", 0.05, "--json")
    assert program.returncode == 1
    figures = json.loads(program.stdout)
    assert (figures["received"], figures["lost"], figures["round_trip"]) == (0, 2, None)
    assert program.stderr == b"no pong: seq=1 within 0.05 s\nno pong: seq=2 within 0.05 s\n"


def test_ping_over_a_unix_socket(ratchet: Ratchet, tmp_path: object) -> None:
    with serving("handlers:echo", address=f"unix:{tmp_path}/socket") as (_, address):
        program = ratchet("ping", address, "-c", 1)
    assert program.returncode == 0
    assert program.stdout.startswith(f"pong from unix:{tmp_path}/socket: seq=1 ".encode())
