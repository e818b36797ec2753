"""Every example tells how it is used."""

from __future__ import annotations

import ast

import pytest

from examples.programs import EXAMPLES, output_of

pytestmark = pytest.mark.slow

NAMES = (
    "broker_client.py",
    "broker_server.py",
    "chat.py",
    "local_bus.py",
    "proxy.py",
    "socket_client.py",
    "socket_server.py",
    "submit_asyncio.py",
    "submit_flask.py",
    "submit_thread.py",
    "tls_client.py",
    "tls_server.py",
    "worker_pool.py",
    "worker_pool_client.py",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_helps(name: str) -> None:
    usage, *rest = output_of(name, "--help")
    assert usage.startswith(f"usage: {name}")
    assert "  -h, --help" in "\n".join(rest)


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_says_how_to_start_it(name: str) -> None:
    text = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")))
    assert text is not None
    assert f"\n    python examples/{name}" in text
