"""`ratchet bench`: load, progress and what it prints in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Ratchet
from cli.programs import Peer, one_line, read_terminal, run, scripted, serving, started
from helpers import LONG

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with serving("handlers:echo") as (_, address):
        yield address


REPORT = re.compile(
    r"""([\d,]+) requests of ([\d,]+) bytes answered
([\d,]+) a second, for (\d+\.\d\d) s
([\d,]+) in flight at the end
([\d,]+) failed
((?:  .*\n)*)""",
)


PROGRESS = re.compile(r"(\d+\.\d) of 60 s: [\d,]+ answered, [\d,]+ a second, 0 failed\n?")


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_requests_latencies_and_a_histogram(echo: str) -> None:
    program = run("bench", echo, "--seconds", 0.5, "--connections", 2, "--in-flight", 3, "--size", 2000)
    assert program.returncode == 0
    text = program.stdout.decode()
    report = REPORT.match(text)
    assert report is not None
    answered = number(report[1])
    assert answered > 0
    assert report[2] == "2,000"
    assert 0.5 <= float(report[4]) < LONG
    assert number(report[3]) == pytest.approx(answered / float(report[4]), rel=0.05)
    assert report[5] == "6"
    assert report[6] == "0"
    assert report[7] == ""
    assert re.search(
        r"^latency: mean [\d.]+ [mu]?s, min [\d.]+ [mu]?s, max [\d.]+ [mu]?s$", text, re.MULTILINE
    )
    shares = re.findall(r"^ +([\d.]+) % within +[\d.]+ [mu]?s$", text, re.MULTILINE)
    assert shares == ["50", "90", "99", "99.9"]
    counts = re.findall(r"^ *[\d.]+ [mu]?s - +[\d.]+ [mu]?s +([\d,]+)", text, re.MULTILINE)
    assert sum(map(number, counts)) == answered


@pytest.mark.parametrize("options", [("a request",), ("--plain", "@file"), ("-",)], ids=" ".join)
def test_a_request_of_the_user_s(ratchet: Ratchet, options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a request")
    with serving("handlers:only_a_request") as (_, address):
        program = ratchet("bench", address, "--seconds", 0.5, *options, cwd=tmp_path, input=b"a request")
    assert program.returncode == 0
    report = REPORT.match(program.stdout.decode())
    assert report is not None
    assert number(report[1]) > 0
    assert (report[2], report[6]) == ("9", "0")


def test_errors_are_counted_by_outcome(ratchet: Ratchet) -> None:
    with serving("handlers:fail") as (_, address):
        program = ratchet("bench", address, "--seconds", 0.5, "x")
    assert program.returncode == 1
    report = REPORT.match(program.stdout.decode())
    assert report is not None
    assert report[1] == "0"
    assert number(report[6]) > 0
    assert report[7] == f"  RAN: {report[6]} RemoteError, such as: LookupError: no such thing: b'x'\n"


def test_one_json_object(ratchet: Ratchet, echo: str) -> None:
    program = ratchet("bench", echo, "--seconds", 0.2, "--connections", 2, "--in-flight", 3, "--json")
    assert program.returncode == 0
    assert program.stdout.count(b"\n") == 1
    figures = json.loads(program.stdout)
    latency = figures.pop("latency")
    answered, seconds = figures.pop("answered"), figures.pop("seconds")
    assert answered > 0
    assert 0.2 <= seconds < LONG
    assert figures.pop("per_second") == pytest.approx(answered / seconds)
    assert figures == {
        "address": echo,
        "connections": 2,
        "in_flight": 3,
        "request_bytes": 100,
        "failed": 0,
        "unfinished": 6,
        "errors": [],
    }
    assert list(latency) == ["min", "mean", "max", "p50", "p90", "p99", "p99.9"]
    shares = [latency[key] for key in ("min", "p50", "p90", "p99", "p99.9", "max")]
    assert shares == sorted(shares)
    assert latency["min"] < latency["mean"] < latency["max"]


def test_one_json_object_of_errors(ratchet: Ratchet, echo: str) -> None:
    large = bytes(17 * 1024 * 1024)
    program = ratchet("bench", echo, "--seconds", 0.2, "-", "--json", input=large)
    assert program.returncode == 1
    figures = json.loads(program.stdout)
    [error] = figures["errors"]
    assert figures["failed"] == error.pop("count") > 0
    assert "over the limit" in error.pop("example")
    assert error == {"outcome": "NOT_SENT", "type": "MessageTooLarge"}
    assert (figures["answered"], figures["latency"]) == (0, None)


def test_errors_that_come_without_a_wait_do_not_hold_up_the_end(ratchet: Ratchet, echo: str) -> None:
    program = ratchet("bench", echo, "--seconds", 0.5, "-", input=bytes(17 * 1024 * 1024))
    assert program.returncode == 1
    assert b"  NOT_SENT: " in program.stdout
    assert b" MessageTooLarge, such as: " in program.stdout


def test_a_server_that_does_not_answer(ratchet: Ratchet) -> None:
    with scripted(Peer.wait_for_end, Peer.wait_for_end) as address:
        program = ratchet("bench", address, "--seconds", 0.5, "--in-flight", 5)
    assert program.returncode == 1
    assert program.stdout.decode().splitlines()[2:] == ["5 in flight at the end", "0 failed"]


def test_too_many_connections(ratchet: Ratchet, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        # Nobody accepts, so there is room for two: a first look, and one connection.
        listener.listen(1)
        program = ratchet("bench", f"unix:{tmp_path}/socket", "--timeout", 0.5, "--connections", 2)
    assert program.returncode == 1
    assert "did not take 2 connections in time; try fewer" in one_line(program)


def test_progress_is_one_line_a_second_in_a_log(echo: str) -> None:
    with started("bench", echo, "--seconds", 60) as program:
        assert program.stderr is not None
        lines = [PROGRESS.fullmatch(program.stderr.readline()) for _ in range(2)]
        program.send_signal(signal.SIGINT)
        output, errors = program.communicate(timeout=LONG)
    assert program.returncode == 130
    assert REPORT.match(output)
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors
    first, second = (float(line[1]) for line in lines if line is not None)
    assert first >= 1
    assert second - first > 0.9


def test_progress_is_one_line_that_changes_on_a_terminal(echo: str) -> None:
    master, slave = os.openpty()
    try:
        with started("bench", echo, "--seconds", 60, stderr=slave) as program:
            first = read_terminal(master, b"failed\x1b[K").partition(b"\x1b[K")[0]
            assert first.startswith(b"\r")
            assert PROGRESS.fullmatch(first[1:].decode())
            read_terminal(master, b"failed\x1b[K")
            program.send_signal(signal.SIGINT)
            output, _ = program.communicate(timeout=LONG)
            # The line is gone, so that the report is alone.
            assert read_terminal(master, b"\r\x1b[K").endswith(b"\r\x1b[K")
    finally:
        os.close(master)
        os.close(slave)
    assert program.returncode == 130
    assert REPORT.match(output)
