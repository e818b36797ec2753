"""Does an exchange cost more when there are more of them?"""

from __future__ import annotations

from benchmarks.common import CPU
from benchmarks.measure import Comparison, Load, Measured, Program, Scale, program
from benchmarks.servers import OURS_UNIX

# By the name of the curve: the loads, by how many there are at once.
Curves = dict[str, dict[int, Load]]


def loads(scale: Scale) -> Curves:
    return {
        "requests in flight, one connection": {
            count: load(f"{count:,} in flight", program("ours:in_flight", requests=count))
            for count in scale.in_flight_steps
        },
        "connections, one request at a time each": {
            count: load(
                f"{count:,} connection{'s' if count > 1 else ''}",
                program("ours:connections", connections=count, least=3),
            )
            for count in scale.connection_steps
        },
    }


def load(name: str, client: Program) -> Load:
    return Load(name, client, OURS_UNIX)


def comparisons(scale: Scale) -> list[Comparison]:
    """Each point against the first of its curve: flat or falling means no dearer than that."""
    rows = []
    for curve in loads(scale).values():
        first, *larger = curve.values()
        rows += [Comparison(f"cost of growing to {each.name}", each, first, CPU, 1.0) for each in larger]
    return rows


def curves(measured: Measured, scale: Scale) -> dict[str, dict[int, list[float]]]:
    """What each point has cost, in each round."""
    return {
        name: {count: costs for count, each in curve.items() if (costs := measured.figures(each, CPU))}
        for name, curve in loads(scale).items()
    }
