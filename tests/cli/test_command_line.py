"""What holds for every command: the help, wrong command lines, output that nobody takes, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Ratchet
from cli.programs import COMMAND, Peer, nobody, one_line, run, scripted, serving, started
from helpers import LONG
from ratchet import __version__, build_info
from ratchet.bus._socket import wire
from ratchet.cli import main, new_parser
from ratchet.cli.common import CommandParser


def commands() -> dict[str, CommandParser]:
    """The parsers of all commands."""
    return next(action.choices for action in new_parser()._actions if isinstance(action.choices, dict))


COMMANDS = commands()


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with serving("handlers:echo") as (_, address):
        yield address


def test_there_are_five_commands() -> None:
    assert list(COMMANDS) == ["call", "serve", "ping", "bench", "stats"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_every_argument_and_has_an_example(name: str) -> None:
    parser = COMMANDS[name]
    assert parser.description
    assert all(action.help for action in parser._actions)
    assert "exit status:\n  0" in parser.format_help()
    assert re.search(rf"^example:\n(  .*\n)*  ratchet {name} ", parser.format_help(), re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, COMMANDS[name].format_help().splitlines())) <= 80


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_goes_to_stdout(command: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    output, errors = capfdbinary.readouterr()
    assert output.startswith(b"usage: " + " ".join(["ratchet", *command]).encode())
    assert errors == b""


def test_the_version_goes_to_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capfdbinary.readouterr() == (f"ratchet {__version__}, {build_info()}\n".encode(), b"")


# Nobody connects to it: the command line is wrong.
ADDRESS = "127.0.0.1:9"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "unheard-of",
        "call",
        "call nowhere",
        "call host:70000",
        "call host:port",
        "call unix:",
        "call ::1:80",
        f"call {'a' * 64}.org:80",
        f"call {ADDRESS} a request too many",
        f"call {ADDRESS} --timeout soon",
        f"call {ADDRESS} --timeout 0",
        f"call {ADDRESS} --timeout -1",
        f"call {ADDRESS} --timeout nan",
        f"call {ADDRESS} --timeout inf",
        f"call {ADDRESS} --time 1",
        f"call {ADDRESS} --unheard-of",
        f"call {ADDRESS} --metadata key",
        f"call {ADDRESS} --metadata =value",
        f"call {ADDRESS} --codec xml",
        f"call {ADDRESS} --codec json --json",
        f"call {ADDRESS} --in-flight 0",
        f"call {ADDRESS} --in-flight {10**30}",
        f"call --wait {ADDRESS}",
        f"serve {ADDRESS}",
        f"serve module {ADDRESS}",
        f"serve module: {ADDRESS}",
        f"serve :name {ADDRESS}",
        f"serve ./module.py:name {ADDRESS}",
        f"serve module:name {ADDRESS} --workers 0",
        f"serve module:name {ADDRESS} --workers many",
        f"serve module:name {ADDRESS} --codec xml",
        f"ping {ADDRESS} -c 0",
        f"ping {ADDRESS} -i 0",
        f"ping {ADDRESS} -W x",
        f"bench {ADDRESS} --size -1",
        f"bench {ADDRESS} --size 1000000000000000",
        f"bench {ADDRESS} --seconds 0",
        f"bench {ADDRESS} --connections 1.5",
        f"bench {ADDRESS} --in-flight 0",
        f"bench {ADDRESS} --connections {10**30}",
        f"serve shop:handle {ADDRESS} --workers {10**30}",
        f"serve shop:handle {ADDRESS} --processes {10**30}",
        f"stats {ADDRESS} --every 0",
    ],
)
def test_a_wrong_command_line_is_one_line_that_leads_to_the_help(
    arguments: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments.split())
    assert exit.value.code == 2
    output, errors = capfdbinary.readouterr()
    assert output == b""
    assert re.fullmatch(r"ratchet: .*; see 'ratchet[a-z ]* --help'\n", errors.decode())


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            "localhost:99999",
            "the port of the address 'localhost:99999' must be between 0 and 65535; write HOST:",
        ),
        ("localhost", "the address 'localhost' has no port number; write HOST:PORT, "),
        ("::1:80", "the address '::1:80' is ambiguous; write IPv6 as [host]:port; see"),
        ("a..b:80", "'a..b:80' is not an address; write HOST:PORT, "),
    ],
)
def test_a_wrong_address_is_told_what_is_wrong_with_it_and_what_to_write(
    address: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["ping", address])
    assert text in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ("call {address} @{folder}/missing", "cannot read the request from '{folder}/missing'"),
        ("call {address} @{folder}", "Is a directory"),
        ("call {address} {{ --json", "the request is not JSON"),
        ("call {address} NaN --json", "NaN is not a JSON number"),
        ("call {address} [1, --json", "; fix it, or leave out --json"),
        ("call {address} x --ca {folder}/missing", "cannot use the authorities in '{folder}/missing'"),
        ("call {address} x --ca {folder}/empty", "cannot use the authorities"),
        ("call {address} x --cert {folder}/missing", "cannot use the certificate '{folder}/missing'"),
        ("call {address} x --cert {folder}/empty", "cannot use the certificate"),
        ("call {address} x --key {folder}/empty", "--cert FILE"),
    ],
)
def test_a_wrong_file_is_one_line_too(ratchet: Ratchet, options: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    program = ratchet(*options.format(address=ADDRESS, folder=tmp_path).split())
    assert program.returncode == 2
    assert program.stdout == b""
    assert advice.format(folder=tmp_path) in one_line(program)


@pytest.mark.parametrize("command", ["call", "ping", "bench", "stats"])
def test_a_server_that_is_not_there_is_said_at_once(
    command: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    request = ["x"] if command == "call" else []
    with nobody() as address:
        refused = f"nothing listens on {address} (Connection refused); is the server running?"
        for where, advice in {
            address: refused,
            "unix:/nowhere/socket": "there is no socket unix:/nowhere/socket",
            "unix:/" + "a" * 200: "cannot connect to unix:/aaa",
        }.items():
            assert main([command, where, *request]) == (3 if command == "call" else 1)
            output, errors = capfdbinary.readouterr()
            assert output == b""
            assert errors.decode().startswith(f"ratchet: {advice}")
            assert errors.count(b"\n") == 1


# Output that nobody takes.


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """A pipe whose reader has gone away."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_has_gone_away_ends_the_program_quietly(echo: str, broken_pipe: int) -> None:
    for arguments in (["--help"], ["--version"], ["call", echo, "x"], ["ping", echo]):
        program = run(*arguments, stdout=broken_pipe)
        assert (program.returncode, program.stderr) == (141, b"")


def test_a_full_disk_is_one_line(echo: str) -> None:
    with open("/dev/full", "wb") as full:
        for arguments in (["--version"], ["call", echo, "x"]):
            program = run(*arguments, stdout=full)
            assert program.returncode == 1
            assert "No space left" in one_line(program)


def test_nobody_need_read_stderr(broken_pipe: int) -> None:
    with nobody() as address:
        program = subprocess.run(
            [*COMMAND, "call", address, "x"], stderr=broken_pipe, timeout=LONG, check=False
        )
    assert program.returncode == 3


@pytest.mark.parametrize(("closed", "advice"), [(0, "stdin is closed"), (1, "stdout is closed")])
def test_a_closed_stream_is_one_line(echo: str, closed: int, advice: str) -> None:
    # Python opens none of the three again, so the shell's way of closing is enough.
    script = f'exec "$@" {closed}>&-'
    program = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "call", echo, "-" if closed == 0 else "x"],
        stderr=subprocess.PIPE,
        timeout=LONG,
        check=False,
    )
    assert program.returncode in (1, 2)
    assert advice in one_line(program)


# Ctrl-C.


def test_ctrl_c_ends_a_call_quietly_and_cancels_the_request() -> None:
    kinds = []

    def conversation(peer: Peer) -> None:
        kinds.append(peer.receive()[0])
        program.send_signal(signal.SIGINT)
        kinds.extend(message[0] for message in peer.receive_rest())

    with scripted(conversation) as address, started("call", address, "x") as program:
        output, errors = program.communicate(timeout=LONG)
    assert program.returncode == 130
    assert (output, errors) == ("", "")
    # Where it strikes in the middle of sending, the connection is closed, which says the same.
    assert kinds in ([wire.REQUEST, wire.CANCEL], [wire.REQUEST])


def test_an_argument_may_be_any_bytes(echo: str) -> None:
    request = b"\xff\xfe not UTF-8"
    program = subprocess.run(
        [*map(os.fsencode, COMMAND), b"call", os.fsencode(echo), request],
        capture_output=True,
        timeout=LONG,
        check=False,
    )
    assert program.stdout == request


def test_the_program_calls_itself_ratchet() -> None:
    assert run("--help").stdout.startswith(b"usage: ratchet ")
