"""The four calls of a bus, between threads of one process.

    python examples/local_bus.py

A cook takes orders, and three guests place them.  One gets a meal, one an
error, and one has no patience.
"""

from __future__ import annotations

import argparse

from ratchet import BusTimeout, Ratchet, RemoteError, bus, thread

SECONDS_TO_COOK = {"soup": 0.01, "roast": 3600.0}

Kitchen = bus.LocalBus[str, str]


def cook(kitchen: Kitchen) -> None:
    """The server's side; `kitchen.serve(handler)` is this loop, in many threads."""
    while True:
        transaction, dish = kitchen.recv_request()
        # The block answers in our place if it raises, and it is left early if
        # the guest gives up; the loop goes on either way.
        with transaction:
            print("cook:  starts on the", dish)
            thread.timer(SECONDS_TO_COOK[dish])
            transaction.send_response(f"a plate of {dish}")


def dine(kitchen: Kitchen, dish: str, patience: float | None = None) -> None:
    """The client's side; `kitchen.call(dish)` is both of its calls in one."""
    transaction = kitchen.send_request(dish, timeout=patience)
    print("guest: orders", dish)
    try:
        print("guest: gets", transaction.recv_response())
    except RemoteError as error:
        print("guest: gets no", dish, "because of a", error.remote_type)
    except BusTimeout as error:
        # UNKNOWN: the cook had begun, and the bus cannot tell how far that went.
        print("guest: leaves without", dish, "and whether it was made is", error.outcome)


def three_guests(kitchen: Kitchen) -> None:
    dine(kitchen, "soup")
    dine(kitchen, "pizza")
    dine(kitchen, "roast", patience=0.25)


def main() -> None:
    argparse.ArgumentParser(description="Show the four calls of a bus.").parse_args()
    server, client = bus.new_local()
    with Ratchet() as kernel:
        # In the background: the program ends when the guests have left.
        kernel.attach_background(cook, server)
        kernel.attach(three_guests, client)
    print("answered:", server.stats().answered)


if __name__ == "__main__":
    main()
