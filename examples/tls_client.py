"""`socket_client.py` with a certificate, for `tls_server.py`.

    python examples/tls_client.py --cert CERT --key KEY --ca CA ADDRESS NUMBER...

CERT and KEY are the client's certificate and private key, CA is the certificate
of the authority that must have signed the server's; all are PEM files.  The
server's certificate must name the host of ADDRESS.
"""

from __future__ import annotations

import argparse
import ssl
import sys

from socket_client import add_options, ask
from tls_server import add_tls_options, mutual_tls


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask for the mean and the median, with a certificate.")
    add_tls_options(parser)
    add_options(parser)
    options = parser.parse_args()
    return ask(options, mutual_tls(ssl.PROTOCOL_TLS_CLIENT, options))


if __name__ == "__main__":
    sys.exit(main())
