"""How quick are many connections, with one request at a time each?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import ASYNCIO, OURS, UVLOOP

CONNECTIONS = 32


def streams(name: str, on_uvloop: bool) -> Load:
    client = program("peers.asyncio:connections", connections=CONNECTIONS, on_uvloop=on_uvloop)
    return Load(f"{name} streams, {CONNECTIONS} connections", client, UVLOOP if on_uvloop else ASYNCIO)


ON_UVLOOP = streams("uvloop", on_uvloop=True)


def comparisons(_: Scale) -> list[Comparison]:
    ours = Load(
        f"ours, {CONNECTIONS} connections", program("ours:connections", connections=CONNECTIONS), OURS
    )
    question = f"{CONNECTIONS} connections, one request at a time each"
    return [
        Comparison(question, ours, ON_UVLOOP, target=0.9),
        Comparison(question, ours, streams("asyncio", on_uvloop=False)),
    ]
