"""A RabbitMQ node of the benchmark's own, on other cores than the programs that speak to it.

The programs that are compared share one.  Whoever asks first starts it, in the folder in which
all of them run, and it ends with that process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import subprocess
import time
from pathlib import Path

from benchmarks import programs

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The script itself: that on the path changes the user first."""

_PATIENCE = 55.0
"""Seconds that a node gets to start."""

_HEADER = b"AMQP\x00\x00\x09\x01"
_SETTINGS = """\
listeners.tcp.1 = 127.0.0.1:{port}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 1MB
"""
# One scheduler, and no waiting in a loop.
_ERLANG = (
    "+S 1:1 +SDcpu 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
)


def version() -> str:
    """The version that is installed, by the name of a folder: to ask the program would start Erlang."""
    found = [re.search(r"\d+(\.\d+)+", path.name) for path in SERVER.parents[1].glob("lib/rabbitmq_server-*")]
    return found[0][0] if found and found[0] else "not installed"


def node_url() -> str:
    """Where the node is; blocks until it is up.  Raises `FileNotFoundError` if there can be none."""
    if not SERVER.exists():
        raise FileNotFoundError("rabbitmq-server is not installed")
    with open("rabbitmq.url", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        url = file.read()
        if not url:
            url = f"amqp://guest:guest@127.0.0.1:{_start(Path.cwd() / 'rabbitmq')}/"
            file.write(url)
    return url


def _start(folder: Path) -> int:
    """Start a node with its data in a new folder; the port that it listens on."""
    port, distribution_port, epmd_port = _free_ports(3)
    folder.mkdir()
    (folder / "plugins").write_text("[].\n")
    (folder / "node.conf").write_text(_SETTINGS.format(port=port))
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "benchmark@localhost",
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONFIG_FILE": str(folder / "node.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        # So the script becomes the node, in place of waiting for it.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    # Erlang would start this by itself, and leave it behind.
    _child([programs.find("epmd")], environment)
    node = _child([str(SERVER)], environment)
    end = time.monotonic() + _PATIENCE
    while not _answers(port):
        if node.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the RabbitMQ node does not answer")
        time.sleep(0.1)
    return port


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def _child(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_on_other_cores,
    )


def _on_other_cores() -> None:
    programs.end_with_parent()
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    if others:
        os.sched_setaffinity(0, others)


def _answers(port: int) -> bool:
    """Whether it answers the header of AMQP."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(_HEADER)
            return bool(connection.recv(1))
    except OSError:
        return False
