"""Runs one of gevent's own test programs on virtual time, or on gevent's own loop, and says how it went.

``python -m testing.gevent_program NAME [real]``, in ``tests/``.  The last line that it prints is
in JSON: how many test cases ran and how many of them were skipped, and the names of those that failed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
import unittest

from ratchet import testing


def main(name: str, virtual: bool) -> None:
    # Sets the class of hubs.
    importlib.import_module("gevent.testing")
    with testing.virtual_time() if virtual else contextlib.nullcontext():
        # The tests take it from there.
        setattr(importlib.import_module("gevent._compat"), "perf_counter", time.perf_counter)  # noqa: B010
        suite = unittest.defaultTestLoader.loadTestsFromName(f"gevent.tests.{name}")
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(suite)
        wrong = [
            test.id().removeprefix(f"gevent.tests.{name}.") for test, _ in result.failures + result.errors
        ]
        print()
        print(json.dumps({"ran": result.testsRun, "skipped": len(result.skipped), "failed": sorted(wrong)}))


if __name__ == "__main__":
    main(sys.argv[1], "real" not in sys.argv[2:])
