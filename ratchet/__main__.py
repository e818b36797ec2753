"""`python -m ratchet`: the command line, which `ratchet.cli` holds."""

from __future__ import annotations

import sys

from ratchet.cli import main

if __name__ == "__main__":
    sys.exit(main())
