"""A broker's URL for an ADDRESS: what of it is refused, before anything is connected, and in which words."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cli.conftest import Ratchet
from cli.programs import nobody, one_line, read_until, started
from helpers import LONG
from ratchet.cli import main, new_parser
from ratchet.cli.address import BrokerAddress
from ratchet.cli.common import Failure

PASSWORD = "hush"
URL = f"amqp://me:{PASSWORD}@127.0.0.1:9/?service=prices"
COMMANDS = ("call", "serve shop:handle", "ping", "bench", "stats")


def refusal(line: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What is said of a wrong command line."""
    with pytest.raises(SystemExit) as exit:
        main(line.split())
    assert exit.value.code == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    return errors.removeprefix("ratchet: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_broker_s_url(command: str) -> None:
    address = new_parser().parse_args([*command.split(), URL]).address
    assert isinstance(address, BrokerAddress)
    assert (address.url, address.service, address.broker.password) == (URL, "prices", PASSWORD)
    assert str(address) == "prices at amqp://127.0.0.1:9"
    assert PASSWORD not in f"{address} {address!r}"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "the URL of a broker must name a service; add ?service=NAME"),
        ("?", "the URL of a broker must name a service; add ?service=NAME"),
        ("?service=", "the name of a service must be 1 to 64 ASCII letters, digits, '-' and '_', not ''"),
        ("?service=a.b", "digits, '-' and '_', not 'a.b'"),
        ("?service=a&service=b", "must be ?service=name, and nothing else"),
        ("?service=a&heartbeat=5", "must be ?service=name, and nothing else"),
        ("?name=a", "must be ?service=name, and nothing else"),
    ],
)
def test_it_names_one_service_and_nothing_else(
    command: str, query: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refusal(f"{command} amqp://me:{PASSWORD}@127.0.0.1:9/{query}", capfd)
    assert said.startswith("argument ADDRESS: ")
    assert text in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    "line",
    [
        f"call amqp://me:{PASSWORD}@host:port/?service=a",
        f"call amqp:me:{PASSWORD}@host/?service=a",
        f"call amqp://me:{PASSWORD}/x@host/?service=a",
        f"call amqp://me:%{PASSWORD}@host/?service=a",
        f"call host:80 request {URL}",
        f"call host:80 --timeout {URL}",
        f"serve {URL} shop:handle",
        f"serve shop:handle host:80 --stats amqp://me:{PASSWORD}@host",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert PASSWORD not in refusal(line, capfd)


def test_a_host_may_be_called_amqp() -> None:
    assert new_parser().parse_args(["call", "amqp:4000"]).address == "amqp:4000"


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (f"call {URL} x --plain", "a broker does not carry the plain form; leave out --plain"),
        (f"bench {URL} --plain", "a broker does not carry the plain form; leave out --plain"),
        (f"call {URL} x --tls", "a URL that begins with amqps://, not amqp://"),
        (f"ping {URL} --insecure", "a URL that begins with amqps://, not amqp://"),
        (f"call {URL.replace('amqp:', 'amqps:')} x --ca missing", "cannot use the authorities in 'missing'"),
    ],
)
def test_what_a_broker_does_not_take(ratchet: Ratchet, line: str, advice: str) -> None:
    program = ratchet(*line.split())
    assert program.returncode == 2
    assert program.stdout == b""
    assert advice in one_line(program)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (f"{URL} --processes 2", "start 'ratchet serve' as often as you want processes"),
        (f"{URL} --pid-file x", "leave out --processes, --pid-file and --reload"),
        (f"{URL} --reload", "leave out --processes, --pid-file and --reload"),
        (f"{URL} --cert x", "a URL that begins with amqps://, not amqp://"),
        (f"{URL} --client-ca x", "--client-ca is for those who connect, and nobody does"),
        ("127.0.0.1:0 --ca x", "--ca is for a broker, and there is none"),
    ],
)
def test_what_a_server_over_a_broker_does_not_take(
    options: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = new_parser().parse_args(["serve", "builtins:repr", *options.split()])
    monkeypatch.setattr("gevent.monkey.patch_all", lambda: None)
    with pytest.raises(Failure) as failure:
        arguments.run(arguments)
    assert failure.value.status == 2
    assert advice in str(failure.value)


@pytest.mark.parametrize("command", ["call", "ping", "bench", "stats"])
def test_without_pamqp_it_says_what_to_install(
    ratchet: Ratchet, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pamqp", None)
    program = ratchet(command, URL)
    assert program.returncode == 1
    assert one_line(program) == "a broker needs pamqp; install it with: pip install 'gevent-ratchet[amqp]'"


@pytest.mark.parametrize("command", ["call", "ping", "bench", "stats"])
def test_a_broker_that_is_not_there_is_said_at_once(ratchet: Ratchet, command: str) -> None:
    with nobody() as one, nobody() as other:
        program = ratchet(command, f"amqp://me:{PASSWORD}@{one},{other}/?service=prices")
    assert program.returncode == (3 if command == "call" else 1)
    assert program.stdout == b""
    assert one_line(program).startswith(
        f"nothing listens on amqp://{one},{other} (Connection refused); is the broker running?"
    )


def test_waiting_in_vain_for_a_broker(ratchet: Ratchet) -> None:
    with nobody() as address:
        program = ratchet("call", f"amqp://{address}/?service=prices", "x", "--wait", 0.2)
    assert program.returncode == 3
    said = one_line(program)
    assert said.startswith(f"not connected to prices at amqp://{address} within 0.2 s: ")
    assert said.endswith("; check that it starts, or wait longer with --wait")


@contextmanager
def mute() -> Iterator[str]:
    """The address of somebody who takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield "{}:{}".format(*listening.getsockname())


def test_a_broker_that_says_nothing_is_given_up_in_time(ratchet: Ratchet) -> None:
    with mute() as address:
        url = f"amqp://{address}/?service=prices"
        call = ratchet("call", url, "x", "--timeout", 0.3)
        ping = ratchet("ping", url, "-c", 1, "-W", 0.3)
    assert call.returncode == 3
    # Less than it was given: on a busy machine, some of that is over when it begins to wait.
    assert re.match(rf"not connected to prices at amqp://{address} within 0\.[0-9]+ s; ", one_line(call))
    assert ping.returncode == 1
    assert one_line(ping) == f"prices at amqp://{address} did not let this side in in time"


def test_a_server_waits_for_its_broker_and_says_so_without_the_password() -> None:
    with (
        nobody() as address,
        started("serve", "builtins:repr", f"amqp://me:{PASSWORD}@{address}/?service=prices") as server,
    ):
        assert server.stderr is not None
        said = read_until(server.stderr, "trying again")
        assert f"cannot connect to prices at amqp://{address}: " in said
        server.send_signal(signal.SIGTERM)
        said += server.communicate(timeout=LONG)[1]
    assert server.returncode == 0
    assert "serving" not in said
    assert PASSWORD not in said
