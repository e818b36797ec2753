"""What do many threads cost, in time and in memory?"""

from __future__ import annotations

from benchmarks.common import SPACE, TIME
from benchmarks.measure import Comparison, Load, Scale, program

# Whether they pause, and what is aimed at in time.
CASES = {"end at once": (False, 1.35), "all pause": (True, 1.1)}


def comparisons(scale: Scale) -> list[Comparison]:
    rows = []
    for case, (pauses, time) in CASES.items():
        arguments = {"threads": scale.threads, "pauses": pauses}
        ours = Load(f"ours, threads that {case}", program("ours:attach", **arguments), fresh=True)
        peer = Load("gevent.spawn, the same", program("peers.gevent:spawn", **arguments), fresh=True)
        question = f"attach {scale.threads:,} threads that {case}"
        rows += [
            Comparison(f"{question}: time", ours, peer, figure=TIME, target=time),
            Comparison(f"{question}: memory", ours, peer, figure=SPACE, target=1.3),
        ]
    return rows
