"""`socket_server.py` behind mutual TLS: only clients with a certificate are let in.

    python examples/tls_server.py --cert CERT --key KEY --ca CA [ADDRESS]

CERT and KEY are the server's certificate and private key, CA is the certificate
of the authority that must have signed those of the clients; all are PEM files.
It prints where it listens, by default on a free port of 127.0.0.1, and logs
whom it did not let in.  SIGTERM and SIGINT end it, as they end `socket_server.py`.
"""

from __future__ import annotations

import argparse
import logging
import ssl

from ratchet import Ratchet, bus
from ratchet.bus import codecs
from socket_server import address_of, describe, drain_on


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cert", required=True, help="PEM file: the certificate to show")
    parser.add_argument("--key", required=True, help="PEM file: its private key")
    parser.add_argument("--ca", required=True, help="PEM file: who must have signed the other side's")


def mutual_tls(protocol: int, options: argparse.Namespace) -> ssl.SSLContext:
    """For either side: show the own certificate, and insist on one of the other side."""
    context = ssl.SSLContext(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(options.cert, options.key)
    context.load_verify_locations(options.ca)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(description="Describe the numbers that clients with a certificate send.")
    add_tls_options(parser)
    parser.add_argument("address", nargs="?", default="127.0.0.1:0", help="HOST:PORT (a free port)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    context = mutual_tls(ssl.PROTOCOL_TLS_SERVER, options)
    server = bus.listen(options.address, codec=codecs.json, ssl_context=context)
    with Ratchet() as kernel:
        kernel.attach(server.serve, describe)
        kernel.attach_background(drain_on, "SIGTERM", server)
        kernel.attach_background(drain_on, "SIGINT", server)
        kernel.attach(print, "listening on", address_of(server), flush=True)


if __name__ == "__main__":
    main()
