"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import ratchet
from benchmarks import programs, rabbitmq
from benchmarks.install import requirements

# What draws the plot says nothing about the figures.
_NO_PEERS = {"matplotlib"}


def describe() -> dict[str, str]:
    """The machine and the versions of everything that was measured."""
    facts = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "build": build(),
    }
    for requirement in ("gevent", "greenlet", *requirements()):
        name, _, _ = requirement.partition("[")
        if name not in _NO_PEERS:
            facts[name] = version(name)
    facts |= {name: programs.version(name) for name in programs.PROGRAMS}
    return facts | {"RabbitMQ": rabbitmq.version()}


def build() -> str:
    """Which build of the library is measured."""
    build_info = getattr(ratchet, "build_info", None)
    return str(build_info()) if build_info else "pure Python"


def processor() -> str:
    """The processor's model, as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
