"""What every process that is measured runs: the functions that its parent names.

    python -m benchmarks.child MODULE CPU [FOLDER]

The library is taken from the folder, or else from this checkout.
Each line of standard input is a task, each line of standard output its answer,
both in JSON.  The process ends with its standard input, so it does not outlive
its parent, however that ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

# That of the system, also where gevent has taken its place since.
from _thread import start_new_thread
from typing import Any


def answer(**parts: Any) -> None:
    print(json.dumps(parts), flush=True)


def run(module: str, task: dict[str, Any]) -> None:
    """Do one task and answer; a server answers with its address and goes on serving."""
    try:
        arguments = task["arguments"]
        if task["serves"]:
            arguments["ready"] = ready
        value = getattr(importlib.import_module(module), task["function"])(**arguments)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
    else:
        answer(value=value)


def ready(address: str, *processes: int) -> None:
    """A server listens, which is this process, or consists of others.

    It never comes back to read the next task, so a thread waits for the end.
    """
    start_new_thread(end_with_parent, ())
    answer(value=[address, processes or [os.getpid()]])


def end_with_parent() -> None:
    # Not by way of sys.stdin: the interpreter could not end while its lock is held.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def main() -> None:
    module, cpu, *library = sys.argv[1:]
    # This package has been imported, so that it stays this one, whatever is in that folder.
    sys.path[:0] = library
    try:
        importlib.import_module(module)
    except ImportError:
        pass  # said when the first task asks for it
    # After the import, which may well go on at other processors.
    os.sched_setaffinity(0, {int(cpu)})
    while line := sys.stdin.readline():
        run(module, json.loads(line))


if __name__ == "__main__":
    main()
