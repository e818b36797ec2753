"""The servers that several questions ask, and the peers that several questions compare with."""

from __future__ import annotations

from benchmarks.measure import Load, program

WORKERS = 64
"""How many threads answer with `serve`."""

OURS = program("ours:serve")
OURS_BY_SERVE = program("ours:serve", workers=WORKERS)
OURS_UNIX = program("ours:serve", unix=True)
GEVENT = program("peers.gevent:serve")
GEVENT_UNIX = program("peers.gevent:serve", unix=True)
REDIS = program("peers.redis:serve")
NATS = program("peers.nats:serve")
GRPC = program("peers.grpc:serve")

LOOPS = {"uvloop": True, "asyncio": False}
"""Whether it is uvloop's, by its name."""


def named(text: str, connections: int) -> str:
    return f"{text}, {connections} connection{'s' if connections > 1 else ''}"


def streams(loop: str, connections: int) -> Load:
    """Connections with one request at a time each."""
    on_uvloop = LOOPS[loop]
    return Load(
        named(f"{loop} streams", connections),
        program("peers.asyncio:connections", connections=connections, on_uvloop=on_uvloop),
        program("peers.asyncio:serve", on_uvloop=on_uvloop),
    )


def protocol(loop: str, connections: int) -> Load:
    """The same without streams."""
    on_uvloop = LOOPS[loop]
    return Load(
        named(f"{loop} Protocol", connections),
        program("peers.protocol:connections", connections=connections, on_uvloop=on_uvloop),
        program("peers.protocol:serve", on_uvloop=on_uvloop),
    )


def redis(connections: int, in_flight: int = 1) -> Load:
    """With so many requests in flight on each connection."""
    name = f"redis, ECHO, -P {in_flight}" if in_flight > 1 else named("redis, ECHO", connections)
    return Load(name, program("peers.redis:echo", connections=connections, in_flight=in_flight), REDIS)


def nats(tasks: int) -> Load:
    """Tasks that share a connection."""
    name = f"NATS, {tasks} task{'s' if tasks > 1 else ''}"
    return Load(name, program("peers.nats:tasks", tasks=tasks), NATS)


def grpc(in_flight: int) -> Load:
    """One thread with so many calls in flight."""
    return Load(f"gRPC, {in_flight} in flight", program("peers.grpc:in_flight", requests=in_flight), GRPC)
