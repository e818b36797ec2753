"""The checksum server and client at work together, each in a process of its own.

    python examples/checksum_demo.py FOLDER

Starts `checksum_server.py` on a free port, runs `checksum_client.py` on the
folder, and ends the server.  What it prints on stdout is what `sha256sum`
prints for the folder's files.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(folder: str) -> int:
    server = subprocess.Popen(
        [sys.executable, HERE / "checksum_server.py"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        print(f"server process {server.pid} listens on {address}", file=sys.stderr)
        return subprocess.call([sys.executable, HERE / "checksum_client.py", address, folder])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
