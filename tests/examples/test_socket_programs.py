"""`socket_server.py` and `socket_client.py`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from examples.programs import ListeningProgram, listening, output_of, running
from helpers import LONG
from ratchet import BusError, Outcome, bus
from ratchet.bus import codecs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["127.0.0.1:0", "localhost:0", "unix:{folder}/socket"])
def test_the_client_gets_its_answer_at_any_address(tmp_path: Path, form: str) -> None:
    with listening("socket_server.py", form.format(folder=tmp_path)) as server:
        address = server.address
        assert output_of("socket_client.py", address, 3, 1, 4, 1, 5) == ["mean 2.8", "median 3"]
        assert output_of("socket_client.py", address, "-2.5") == ["mean -2.5", "median -2.5"]
        server.send(signal.SIGTERM)
        assert server.end() == (0, [], "")


@pytest.mark.parametrize(
    ("numbers", "status", "error"),
    [
        ([], 1, "RemoteError, outcome RAN: StatisticsError: "),
        (["nan"], 2, "Out of range float values are not JSON compliant"),
    ],
    ids=["the handler raises", "the codec raises"],
)
def test_the_client_says_what_went_wrong(numbers: list[str], status: int, error: str) -> None:
    with listening("socket_server.py") as server:
        with running("socket_client.py", server.address, *numbers) as client:
            ended, lines, errors = client.end()
    assert (ended, lines) == (status, [])
    assert errors.startswith(error)


def test_the_client_does_not_wait_for_ever_for_a_server_that_is_not_there() -> None:
    with listening("socket_server.py") as server:
        address = server.address
        server.send(signal.SIGTERM)
        assert server.end() == (0, [], "")
    with running("socket_client.py", address, 1, "--timeout", 0.1) as client:
        status, lines, errors = client.end()
    assert (status, lines) == (1, [])
    assert errors.startswith("BusTimeout, outcome NOT_SENT: not connected to ")


def check_that_it_drains(server: ListeningProgram, number: signal.Signals) -> None:
    # Nobody takes the server's place, for which a client that retries would wait.
    with bus.connect(server.address, codec=codecs.json, retry=None) as client:
        assert client.call([1], LONG) == {"mean": 1, "median": 1}
        transactions = [client.send_request([number], LONG) for number in range(2000)]
        server.send(number)
        ends = set()
        for count, transaction in enumerate(transactions):
            try:
                assert transaction.recv_response() == {"mean": count, "median": count}
            except BusError as error:
                ends.add(error.outcome)
    assert ends <= {Outcome.NOT_SENT, Outcome.NOT_RUN}
    assert server.end() == (0, [], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_server_that_is_told_to_end_leaves_no_client_in_doubt(number: signal.Signals) -> None:
    with listening("socket_server.py") as server:
        check_that_it_drains(server, number)
