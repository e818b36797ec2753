"""What importing the package does, which is nothing, and who may import whom."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from helpers import PACKAGE, output_of
from ratchet import __version__
from ratchet._compiled import MODULES as COMPILED

# Module -> those of ours that it may import.  Each stands below what it imports,
# so imports run downward only.
ERRORS = {"errors"}
SCHEDULER = {
    *ERRORS,
    "_loop",
    "_clock",
    "_chance",
    "_log",
    "_wait",
    "_native",
    "_run_queue",
    "_alive",
    "_interrupts",
    "_death",
    "_context",
    "_fork",
}
PLUGIN = "testing.plugin"
COMMANDS = ("call", "serve", "ping", "bench", "stats")
COMMAND = {"_clock", "bus", "cli.address", "cli.common", "cli.connection"}
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "_compiled": set(),
    "_build": {"_compiled"},
    "errors": set(),
    "_loop": set(),
    "_clock": {"_loop"},
    "_chance": set(),
    "_log": ERRORS,
    "_greenlets": set(),
    "_sleep": {"_greenlets"},
    # By its `.pxd` alone.
    "_native": {"_sleep"},
    "_wait": {*ERRORS, "_clock", "_log", "_native"},
    "_alive": set(),
    "_run_queue": {*ERRORS, "_loop", "_clock", "_alive", "_native", "_sleep", "_wait"},
    "_interrupts": {"_alive", "_log", "_sleep"},
    "_fork": {"_alive", "_log", "_sleep"},
    "_death": {"_loop"},
    "_context": set(),
    "_turns": SCHEDULER,
    "_thread": SCHEDULER,
    "_future": SCHEDULER,
    "_submit": {*SCHEDULER, "_thread", "_future"},
    "_scheduler": {*SCHEDULER, "_turns", "_thread", "_submit"},
    "_hub_errors": {*SCHEDULER, "_thread", "_scheduler"},
    "kernel": {*SCHEDULER, "_thread", "_scheduler", "_hub_errors"},
    "_alarm": {*SCHEDULER, "kernel"},
    "_block_on": SCHEDULER,
    "_pause": SCHEDULER,
    "_sigwait": SCHEDULER,
    "thread": {*SCHEDULER, "_thread", "kernel", "_alarm", "_block_on", "_pause", "_sigwait"},
    "bus.codecs": SCHEDULER,
}


def allow_in_order(package: str, modules: str, below: set[str]) -> set[str]:
    """Let each module of a package import those before it, and what is below the package."""
    known = set(below)
    for module in modules.split():
        ALLOWED[f"{package}.{module}"] = set(known)
        known.add(f"{package}.{module}")
    ALLOWED[package] = set()
    return known


BUS_CORE = allow_in_order(
    "bus._core",
    "address limits stats faults deadline numbered linked lines fair_queue watch load peer side inbox"
    " recipient links middleware outgoing retry many public_class client client_middleware incoming_requests"
    " incoming_states incoming decoding handle handler_chain intake serving server",
    {*SCHEDULER, "bus.codecs"},
)
# The workers of a server are threads of the scheduler.
for server_module in ("intake", "serving", "server"):
    ALLOWED[f"bus._core.{server_module}"].add("kernel")
# It knows which thread is to run next.
ALLOWED["bus._core.inbox"].add("_sleep")
# The kinds of bus know nothing of each other.
ALLOWED["bus._local_routes"] = BUS_CORE | {"_native"}
ALLOWED["bus._local"] = {*BUS_CORE, "bus._local_routes"}
# What speaks over a socket stands on these.
BUS_TRANSPORT = allow_in_order(
    "bus._transport", "transport tls delivery acknowledge linger dropped dial failure", BUS_CORE
)
BUS_SOCKET = allow_in_order(
    "bus._socket",
    "read_size pages heads slots table wire outbox protocol stall listen accept network descriptor memory"
    " large budget interfaces writers output input stream casts plain admission shedding gate"
    " server_connection server loss client_connection many connections servers discovery sender client",
    BUS_TRANSPORT,
)
for client_module in (
    "client_connection",
    "many",
    "connections",
    "servers",
    "discovery",
    "sender",
    "client",
):
    ALLOWED[f"bus._socket.{client_module}"] -= {"bus._socket.server_connection", "bus._socket.server"}
BUS_BROKER = allow_in_order(
    "bus._broker",
    "url topology tables properties message credit frames interfaces handshake link_protocol stream link"
    " connection unconfirmed content outcomes client_link sender client desk giving_back intake_end"
    " server_link server",
    BUS_TRANSPORT | {"_version"},
)
for server_module in ("desk", "giving_back", "intake_end", "server_link", "server"):
    ALLOWED[f"bus._broker.{server_module}"] -= {
        f"bus._broker.{name}" for name in ("content", "outcomes", "client_link", "sender", "client")
    }
ALLOWED["bus._opening"] = {*BUS_CORE, *BUS_SOCKET, "bus._broker.url"}
ALLOWED["bus._broker_opening"] = {*BUS_CORE, *BUS_BROKER}
# Worker processes, and what starts them: programs that use the bus over sockets.
BUS_PROCESSES = allow_in_order(
    "bus._processes",
    "placing back_off pid_file signals reload channel settings names systemd listener ending worker"
    " acceptor worker_process supervisor serving beside beside_program",
    {*SCHEDULER, "kernel", *BUS_CORE, *BUS_SOCKET, "bus._opening"},
)
# What tests are made with: it stands on the library, which knows nothing of it.
TESTING = allow_in_order(
    "testing",
    "_undo _shown _watchers _stateful_watchers _places _descriptors _loop_interface _loop _dump _kill"
    " _outside _time_functions _time _faults _owner _pipe _connection _sockets _network _repeatable"
    " _simulate _interrupted_run _interrupt _leaks _time_limit",
    {*SCHEDULER, "_sleep", "_thread", "_turns", "kernel", *BUS_CORE, *BUS_SOCKET},
)
ALLOWED |= {
    "testing": TESTING,
    "bus": {*BUS_CORE, *BUS_SOCKET, *BUS_PROCESSES, "bus._broker_opening", "bus._local", "bus._opening"},
    # The package itself only names what the others have.
    "": {*ERRORS, "_build", "_fork", "_version", "kernel", "thread", "bus"},
    # The only module that needs pytest, and that nobody imports but pytest.
    PLUGIN: {*TESTING, "", "bus", "testing"},
    # The command line is one more program: it uses the library and is used by nobody.
    "cli.common": {"bus._processes.names"},
    "cli.address": {
        "bus",
        "bus._broker.url",
        "bus._broker_opening",
        "bus._core.address",
        "bus._core.client",
        "bus._core.server",
        "cli.common",
    },
    "cli.connection": {
        "_clock",
        "bus._core.address",
        "bus._transport.dial",
        "bus._transport.transport",
        "cli.address",
        "cli.common",
    },
    # Only what a broker's address needs imports it, as it needs pamqp.
    "cli.broker": {
        *COMMAND,
        *ERRORS,
        "bus._broker.interfaces",
        "bus._broker.link",
        "bus._broker.topology",
    },
    "cli.latency": set(),
    "cli.serve": {
        *COMMAND,
        *ERRORS,
        "_log",
        "bus._core.address",
        "bus._core.server",
        "bus._processes.ending",
        "bus._processes.names",
        "bus._processes.pid_file",
        "bus._processes.serving",
        "bus._processes.supervisor",
        "bus.codecs",
        "kernel",
    },
    "cli.forms": {"bus", "bus._processes.names", "bus.codecs", "cli.common", "errors"},
    "cli.client": {
        *ERRORS,
        "_clock",
        "bus",
        "bus._core.address",
        "bus._core.client",
        "bus.codecs",
        "cli.address",
        "cli.broker",
        "cli.common",
        "cli.connection",
        "cli.forms",
    },
    "cli.ndjson": {*ERRORS, "_clock", "bus", "cli.client", "cli.common", "cli.forms"},
    "cli.call": {
        "_clock",
        "cli.address",
        "cli.client",
        "cli.common",
        "cli.connection",
        "cli.forms",
        "cli.ndjson",
        *ERRORS,
    },
    "cli.ping": {
        *COMMAND,
        *ERRORS,
        "bus._core.address",
        "bus._socket.wire",
        "bus._transport.transport",
        "cli.broker",
    },
    "cli.bench": {*COMMAND, *ERRORS, "bus._core.client", "kernel", "thread", "cli.client", "cli.latency"},
    "cli.stats": {
        *ERRORS,
        "_clock",
        "cli.address",
        "cli.client",
        "cli.common",
        "cli.connection",
        "cli.forms",
    },
    "cli.completion": {"cli.common"},
    "cli": {"_build", "_version", "cli.common", "cli.completion", *(f"cli.{name}" for name in COMMANDS)},
    "__main__": {"cli"},
}

# What may be imported from outside the standard library, and where.
OUTSIDE = {"gevent", "greenlet"}
# These import it as they are imported, because only whoever wants a broker imports them.
OVER_A_BROKER = [
    "cli.broker",
    *(
        f"bus._broker.{name}"
        for name in (
            "client",
            "client_link",
            "connection",
            "content",
            "credit",
            "desk",
            "frames",
            "giving_back",
            "handshake",
            "intake_end",
            "interfaces",
            "link",
            "link_protocol",
            "message",
            "outcomes",
            "properties",
            "sender",
            "server",
            "server_link",
            "stream",
            "topology",
        )
    ),
]
OPTIONAL = {
    **{name: {"pamqp"} for name in OVER_A_BROKER},
    "bus.codecs": {"msgspec"},
    "bus._local": {"typing_extensions"},
    "bus._processes.reload": {"watchfiles"},
    "cli.address": {"pamqp"},
    "cli.completion": {"shtab"},
    PLUGIN: {"pytest"},
}


def modules() -> dict[str, ast.Module]:
    """The modules that exist, by their name within the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def files() -> dict[str, Path]:
    """The `.pxd` files that exist, by the name of their module within the package."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.pxd")}
    return {".".join(name.parts): path for name, path in paths.items()}


DECLARATIONS = files()
# Those that are not compiled, but stand once more in C, in their `.pxd`.
LEAVES = {name for name in DECLARATIONS if f"ratchet.{name}" not in COMPILED}


def imports_of(name: str) -> set[str]:
    """The full names of the modules that a module of ours imports, anywhere in it."""
    package = "ratchet.bus" if name.split(".")[0] == "bus" else "ratchet"
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, package)
            # `from ratchet import errors` imports a module, `from ratchet.errors import X` a name.
            for alias in node.names:
                full = f"{source}.{alias.name}"
                found.add(full if full.partition(".")[2] in MODULES else source)
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downward_only(name: str) -> None:
    assert name in ALLOWED, f"ratchet.{name} is new: say in ALLOWED, in this file, what it may import"
    ours = {full.partition(".")[2] for full in imports_of(name) if full.split(".")[0] == "ratchet"}
    assert ours <= ALLOWED[name], f"ratchet.{name} must not import {sorted(ours - ALLOWED[name])}"


def declared_imports_of(name: str) -> set[str]:
    """The modules of ours, within the package, that a `.pxd` imports from, or as a whole."""
    found = set()
    text = DECLARATIONS[name].read_text(encoding="utf-8")
    for source, names in re.findall(r"^from ratchet\.?(\S*) cimport (.+)$", text, re.MULTILINE):
        for imported in names.split(", "):
            full = f"{source}.{imported}".strip(".")
            found.add(full if full in MODULES else source)
    return found


@pytest.mark.parametrize("name", sorted(DECLARATIONS))
def test_types_flow_downward_only(name: str) -> None:
    above = declared_imports_of(name) - ALLOWED[name]
    assert not above, f"{name}.pxd must not import from {sorted(above)}"


def test_the_modules_with_functions_in_c_are_known() -> None:
    in_sockets = {f"bus._socket.{name}" for name in ("descriptor", "heads", "memory", "table")}
    assert {"_greenlets", "_native", "bus._core.lines", *in_sockets} == LEAVES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_whoever_imports_functions_in_c_gets_them(name: str) -> None:
    # Without this, it would silently get those for pure Python, which do not go with the others.
    for leaf in {full.partition(".")[2] for full in imports_of(name)} & LEAVES:
        assert f"ratchet.{name}" in COMPILED, f"{name} is not compiled, and must not import {leaf}"
        assert leaf in declared_imports_of(name), f"{name}.pxd must import {leaf}"


def test_the_table_of_imports_has_no_circle() -> None:
    above: set[str] = set()
    for name, allowed in ALLOWED.items():
        assert allowed <= above, f"{name} may import {sorted(allowed - above)}, which stand below it"
        above.add(name)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_nothing_but_gevent_greenlet_and_the_standard_library(name: str) -> None:
    roots = {full.split(".")[0] for full in imports_of(name)} - {"ratchet"}
    allowed = OUTSIDE | OPTIONAL.get(name, set()) | sys.stdlib_module_names
    assert roots <= allowed, f"ratchet.{name} must not import {sorted(roots - allowed)}"


def import_all_but(*names: str) -> str:
    """A program that imports every module but these."""
    return f"""
import importlib, pkgutil
import ratchet
for module in pkgutil.walk_packages(ratchet.__path__, "ratchet."):
    if module.name.partition(".")[2] not in {names!r}:
        importlib.import_module(module.name)
"""


IMPORT_ALL = import_all_but(PLUGIN)


def test_importing_every_module_prints_nothing() -> None:
    assert output_of(IMPORT_ALL) == ""


def test_importing_every_module_patches_nothing_and_starts_nothing() -> None:
    program = (
        """
import asyncio, logging, os, select, signal, socket, ssl, subprocess, sys, threading, time
patchable = [asyncio, os, select, signal, socket, ssl, subprocess, sys, threading, time]
before = [dict(vars(module)) for module in patchable]
handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
"""
        + IMPORT_ALL
        + """
import gc, greenlet
from gevent import _hub_local, monkey
print("patched:", [name for name in ("socket", "time", "thread") if monkey.is_module_patched(name)])
changed = [
    (module.__name__, name)
    for module, names in zip(patchable, before)
    for name, value in names.items()
    if vars(module).get(name) is not value and not name.startswith("_")
]
print("changed:", changed)
print("handlers:", [n for n in handlers if signal.getsignal(n) is not handlers[n]])
print("hub:", _hub_local.get_hub_if_exists())
print("OS threads:", threading.active_count())
greenlets = [it for it in gc.get_objects() if isinstance(it, greenlet.greenlet)]
print("greenlets:", [it for it in greenlets if it.parent is not None])
print("root handlers:", logging.getLogger().handlers)
"""
    )
    assert output_of(program).splitlines() == [
        "patched: []",
        "changed: []",
        "handlers: []",
        "hub: None",
        "OS threads: 1",
        "greenlets: []",
        "root handlers: []",
    ]


def loaded(source: str) -> set[str]:
    """The top-level modules that a program has loaded in the end."""
    report = "\nimport sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    return set(output_of(source + report).split())


def test_importing_every_module_loads_nothing_beyond_gevent_and_the_standard_library() -> None:
    gevents_own = loaded(
        "import gevent, gevent.event, gevent.hub, gevent.lock, gevent.pool, gevent.queue, gevent.server, "
        "gevent.signal, gevent.socket, gevent.ssl, gevent.threadpool"
    )
    optional = set().union(*OPTIONAL.values())
    ours = loaded(IMPORT_ALL) - gevents_own - sys.stdlib_module_names - {"ratchet"} - optional
    # What compiled modules have in common, which no file is.
    assert {name for name in ours if not name.startswith("_cython_")} == set()


def test_the_package_loads_without_its_optional_dependencies() -> None:
    blocked = sorted(set().union(*OPTIONAL.values()))
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    assert output_of(block + import_all_but(PLUGIN, *OVER_A_BROKER)) == ""


def test_every_public_name_exists() -> None:
    program = IMPORT_ALL + "print(all(hasattr(ratchet, name) for name in ratchet.__all__))"
    assert output_of(program) == "True\n"


def test_the_version_is_that_of_the_distribution() -> None:
    assert __version__ == importlib.metadata.version("gevent-ratchet")
