"""`tls_server.py` and `tls_client.py`: both sides show a certificate, and look at the other one's."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trustme

from examples.programs import listening, output_of, running

pytestmark = pytest.mark.slow


class Certificates:
    """PEM files in a folder, and the options that name them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authorities = {name: trustme.CA() for name in ("ours", "theirs")}
        for name, authority in self._authorities.items():
            authority.cert_pem.write_to_path(str(folder / f"{name}.pem"))

    def options(self, host: str, issuer: str = "ours", trusted: str = "ours") -> list[str]:
        """What a program that shows a certificate of `issuer` for `host` is started with."""
        issued = self._authorities[issuer].issue_cert(host)
        pem = str(self._folder / f"{host} of {issuer}.pem")
        issued.private_key_and_cert_chain_pem.write_to_path(pem)
        return ["--cert", pem, "--key", pem, "--ca", str(self._folder / f"{trusted}.pem")]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_those_who_trust_each_other_talk(certificates: Certificates) -> None:
    with listening("tls_server.py", *certificates.options("127.0.0.1")) as server:
        client = certificates.options("client@example.org")
        assert output_of("tls_client.py", *client, server.address, 1, 2, 6) == ["mean 3", "median 2"]
        server.send(signal.SIGTERM)
        assert server.end() == (0, [], "")


def test_a_client_of_another_authority_is_not_let_in(certificates: Certificates) -> None:
    with listening("tls_server.py", *certificates.options("127.0.0.1")) as server:
        options = certificates.options("client@example.org", issuer="theirs")
        with running("tls_client.py", *options, server.address, 1) as client:
            status, lines, errors = client.end()
        assert (status, lines) == (1, [])
        assert errors.startswith("ConnectionLost, outcome NOT_RUN: ")
        server.send(signal.SIGTERM)
        status, lines, errors = server.end()
    assert (status, lines) == (0, [])
    assert "the TLS handshake failed" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("host", "issuer"),
    [("127.0.0.1", "theirs"), ("example.org", "ours")],
    ids=["of another authority", "for another host"],
)
def test_a_client_sends_nothing_to_a_server_with_a_certificate(
    certificates: Certificates, host: str, issuer: str
) -> None:
    with listening("tls_server.py", *certificates.options(host, issuer)) as server:
        options = certificates.options("client@example.org")
        with running("tls_client.py", *options, server.address, 1) as client:
            status, lines, errors = client.end()
    assert (status, lines) == (1, [])
    assert errors.startswith(f"ConnectionLost, outcome NOT_SENT: cannot connect to {server.address}: ")
    assert "certificate verify failed" in errors
