"""`submit_thread.py`, `submit_asyncio.py` and `submit_flask.py`: a bus that other OS threads call."""

from __future__ import annotations

import signal

import pytest
from gevent import socket

from examples.programs import listening, output_of
from helpers import LONG

pytestmark = pytest.mark.slow


def test_a_plain_os_thread_gets_its_answers() -> None:
    assert output_of("submit_thread.py") == ["CLICK", "CLACK"]


def test_an_asyncio_program_gets_its_answers_and_its_time_out_ends_the_handler() -> None:
    *answers, one, other = output_of("submit_asyncio.py")
    assert answers == ["slept 0.0 s", "slept 0.01 s", "slept 0.02 s"]
    # Two OS threads print these.
    assert {one, other} == {"asyncio's time-out", "the handler was ended"}


def test_flask_s_threads_get_their_answers_and_the_program_ends_on_a_signal() -> None:
    with listening("submit_flask.py") as web:
        host, port = web.address.split(":")
        browsers = [socket.create_connection((host, int(port)), LONG) for _ in range(3)]
        for number, browser in enumerate(browsers):
            browser.sendall(b"GET /word-%d HTTP/1.0\r\n\r\n" % number)
        for number, browser in enumerate(browsers):
            with browser, browser.makefile("rb") as answer:
                assert answer.read().endswith(b"\r\n\r\nWORD-%d" % number)
        web.send(signal.SIGTERM)
        status, lines, _ = web.end()
        assert (status, lines) == (0, [])
