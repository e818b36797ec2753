"""The same questions with the library as it was as the peer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from benchmarks.measure import Comparison, Load
from benchmarks.questions.local_many_clients import CLIENTS, ours_with

TARGET = 1.0
TARGET_BY_SERVE = 1.15
TARGETS = {ours_with(CLIENTS): 1.1}


def comparisons_with(before: str, rows: Iterable[Comparison]) -> list[Comparison]:
    """Each load of ours that has a peer against the same on the library in that folder."""
    compared: dict[tuple[Load, str], Comparison] = {}
    for row in rows:
        if row.peer is not None:
            target = TARGET_BY_SERVE if row.by_serve else TARGETS.get(row.ours, TARGET)
            peer = on_library(row.ours, before)
            compared[row.ours, row.figure] = replace(row, peer=peer, target=target)
    return list(compared.values())


def on_library(load: Load, folder: str) -> Load:
    return replace(
        load,
        name="the library before",
        client=replace(load.client, library=folder),
        server=load.server and replace(load.server, library=folder),
    )
