"""TLS from the command line: who trusts whom, and what is said if they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from cli.conftest import Ratchet
from cli.programs import one_line, run, serving
from ratchet.cli import new_parser
from ratchet.cli.common import Failure
from ratchet.cli.connection import server_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, certificates of the server and of a client, and an authority that nobody trusts."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger"))
    for name, identity in (
        ("server", "127.0.0.1"),
        ("elsewhere", "example.org"),
        ("client", "me@example.org"),
    ):
        certificate = authority.issue_cert(identity)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / name))
    certificate.private_key_pem.write_to_path(str(folder / "client.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "client.cert"))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Lets in whoever trusts it."""
    with serving("handlers:echo", "--cert", folder / "server") as (_, address):
        yield address


@pytest.fixture(scope="module")
def strict(folder: Path) -> Iterator[str]:
    """Lets in only clients with a certificate."""
    options = ("--cert", folder / "server", "--client-ca", folder / "ca")
    with serving("handlers:echo", *options) as (_, address):
        yield address


@pytest.mark.parametrize("options", ["--ca ca", "--tls --ca ca", "--insecure", "--ca stranger --insecure"])
def test_a_server_that_is_trusted(ratchet: Ratchet, server: str, folder: Path, options: str) -> None:
    program = ratchet("call", server, "request", *options.split(), cwd=folder)
    assert (program.returncode, program.stdout, program.stderr) == (0, b"request", b"")


@pytest.mark.parametrize("options", ["--tls", "--ca stranger"])
def test_a_server_that_is_not_trusted(ratchet: Ratchet, server: str, folder: Path, options: str) -> None:
    program = ratchet("call", server, "request", *options.split(), cwd=folder)
    assert program.returncode == 3
    assert one_line(program).startswith(f"the certificate of {server} is not trusted (")
    assert one_line(program).endswith("; name its authority with --ca FILE")


def test_a_certificate_for_another_host(ratchet: Ratchet, folder: Path) -> None:
    with serving("handlers:echo", "--cert", folder / "elsewhere") as (_, address):
        program = ratchet("call", address, "request", "--ca", folder / "ca")
    assert program.returncode == 3
    assert "IP address mismatch" in one_line(program)


@pytest.mark.parametrize("options", ["--cert client", "--cert client.cert --key client.key"])
def test_a_client_that_is_let_in(strict: str, folder: Path, options: str) -> None:
    program = run("call", strict, "request", "--ca", "ca", *options.split(), cwd=folder)
    assert (program.returncode, program.stdout) == (0, b"request")


def test_a_client_that_is_not_let_in(ratchet: Ratchet, strict: str, folder: Path) -> None:
    # TLS 1.3 tells it so only after its handshake, when the request may be on its way.
    program = ratchet("call", strict, "request", "--ca", folder / "ca")
    assert program.returncode == 4
    assert one_line(program).startswith(f"the connection to {strict} was lost")


def test_a_server_without_tls(ratchet: Ratchet, folder: Path) -> None:
    with serving("handlers:echo") as (_, address):
        program = ratchet("call", address, "request", "--ca", folder / "ca", "--timeout", 5)
    assert program.returncode == 3
    assert address in one_line(program)


def test_a_client_without_tls(ratchet: Ratchet, server: str) -> None:
    program = ratchet("call", server, "request", "--timeout", 5)
    assert program.returncode == 5
    assert one_line(program)


def test_a_unix_socket_has_no_name_to_check(ratchet: Ratchet, folder: Path, tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/socket"
    with serving("handlers:echo", "--cert", folder / "server", address=where) as (_, address):
        trusting = ratchet("call", address, "request", "--ca", folder / "ca")
        wary = ratchet("call", address, "request", "--ca", folder / "stranger")
    assert (trusting.returncode, trusting.stdout) == (0, b"request")
    assert wary.returncode == 3


def test_ping_and_bench(ratchet: Ratchet, strict: str, folder: Path) -> None:
    tls = ("--ca", folder / "ca", "--cert", folder / "client")
    ping = ratchet("ping", strict, "-c", 2, "-i", 0.01, *tls)
    assert ping.returncode == 0
    assert b"\n2 sent, 2 received, 0% lost" in ping.stdout
    bench = ratchet("bench", strict, "--seconds", 0.2, *tls)
    assert bench.returncode == 0
    assert b"\n0 failed\n" in bench.stdout


def test_a_ping_that_is_not_let_in(ratchet: Ratchet, strict: str, folder: Path) -> None:
    program = ratchet("ping", strict, "-c", 1, "--ca", folder / "ca")
    assert program.returncode == 1
    assert program.stdout.startswith(b"no pong: seq=1 ")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ("--cert missing", "cannot use the certificate 'missing' (No such file or directory); "),
        ("--cert ca", "cannot use the certificate 'ca' ("),
        ("--cert client.cert --key client.cert", "'client.cert' with the key 'client.cert' ("),
        ("--cert server --key client.key", "'server' with the key 'client.key' (key values mismatch); "),
        ("--cert server --client-ca missing", "cannot use the authorities in 'missing' (No such file"),
        ("--client-ca ca", "--cert FILE"),
    ],
)
def test_a_file_that_does_not_fit(
    folder: Path, options: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    arguments = new_parser().parse_args(["serve", "builtins:repr", "127.0.0.1:0", *options.split()])
    with pytest.raises(Failure) as failure:
        server_context(arguments, arguments.address)
    assert failure.value.status == 2
    assert advice in str(failure.value)


def test_a_server_whose_certificate_is_missing() -> None:
    program = run("serve", "builtins:repr", "127.0.0.1:0", "--cert", "/nowhere/certificate")
    assert program.returncode == 2
    assert one_line(program).startswith("cannot use the certificate '/nowhere/certificate' (No such file")
