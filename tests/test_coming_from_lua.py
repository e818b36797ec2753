"""The page for those who come from Ratchet for Lua: it is complete, and its programs do what it says."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from textwrap import dedent
from typing import NamedTuple

import pytest

from helpers import output_of

PAGE = Path(__file__).parent.parent / "docs" / "coming-from-lua.rst"

# Every function that a program in Lua can call, from the library's reference and
# its source; helpers that it keeps for itself are not among them.
FUNCTIONS = {
    "ratchet": "new get_method get_num_threads loop loop_once get_space break stackdump",
    "ratchet.thread": "attach attach_background wait_all space self timer alarm pause unpause block_on"
    " sigwait kill kill_all",
    "ratchet.bus": "new_local new_server new_client recv_request send_request",
    "ratchet.bus.transaction": "send_response recv_response",
    "ratchet.socket": "new new_pair from_fd prepare_tcp prepare_udp prepare_unix multi_recv get_fd ntoh hton"
    " ntoh16 hton16 gethostname get_timeout set_timeout bind listen accept connect encrypt get_encryption"
    " send recv check_errors shutdown close set_tracer getsockopt setsockopt",
    "ratchet.socketpad": "new send recv recv_remaining peek update_and_peek flush send_behavior close",
    "ratchet.dns": "query query_all get_i new resolv_conf.new hosts.new",
    "ratchet.exec": "new communicate get_argv start get_start_time stdin stdout stderr wait kill",
    "ratchet.ssl": "new create_session set_verify_mode load_certs load_cas load_randomness load_dh_params"
    " generate_tmp_rsa",
    "ratchet.ssl.session": "get_engine verify_certificate get_cipher get_rfc2253 server_handshake"
    " client_handshake accept connect shutdown read write",
    "ratchet.timerfd": "new get_fd settime gettime read close",
    "ratchet.zmqsocket": "new prepare_uri get_fd get_timeout set_timeout bind connect send recv recv_all"
    " is_readable is_writable is_rcvmore rawsend rawrecv",
    "ratchet.error": "new is get_string tostring",
    "ratchet.http.client": "new query",
    "ratchet.http.server": "new handle",
    "ratchet.smtp.client": "new get_banner ehlo helo starttls mailfrom rcptto data send_data send_empty_data"
    " custom_command rset quit close",
    "ratchet.smtp.server": "new handle",
}

# What the first word of a dotted name stands for in the tables, where it is no module.
STANDS_FOR = {
    "bus": ["ratchet.bus"],
    "client": ["ratchet.bus.ClientBus"],
    "connection": ["gevent.socket.socket"],
    "context": ["gevent.ssl.SSLContext"],
    "kernel": ["ratchet.Ratchet"],
    "server": ["ratchet.bus.ServerBus"],
    "session": ["gevent.ssl.SSLSocket"],
    "socket": ["gevent.socket"],
    "ssl": ["gevent.ssl"],
    "subprocess": ["gevent.subprocess"],
    "thread": ["ratchet.thread"],
    "transaction": ["ratchet.bus.ClientTransaction", "ratchet.bus.ServerTransaction"],
    "zmq": ["zmq.green"],
}
STANDS_FOR_IN = {
    "ratchet.http.client": {"client": ["geventhttpclient.HTTPClient"]},
    "ratchet.smtp.client": {"client": ["smtplib.SMTP"]},
    "ratchet.zmqsocket": {"socket": ["zmq.green.Socket"]},
}
MODULES = ("aiosmtpd", "dns", "errno", "gevent", "http", "ratchet", "smtplib", "time", "traceback")

# The packages that are optional, by the names of their imports.
OPTIONAL = {
    "aiosmtpd": "aiosmtpd",
    "dns": "dnspython",
    "geventhttpclient": "geventhttpclient",
    "trustme": "trustme",
    "zmq": "pyzmq",
}


class Program(NamedTuple):
    """A program of the page, and what the page says that it prints."""

    source: str
    output: str


def sections() -> dict[str, str]:
    """The text below each title, by title."""
    pieces = re.split(r"^(\S.*)\n([-=~])\2+\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[1::3], pieces[3::3], strict=True))


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the code of each block."""
    found = re.findall(r"^\.\. code-block:: (\w+)\n\n((?: {4}.*\n|\n)+)", text, re.MULTILINE)
    return [(language, dedent(code).strip("\n") + "\n") for language, code in found]


def programs() -> dict[str, Program]:
    """Every program, by the title of its section."""
    found = {}
    for title, text in SECTIONS.items():
        languages, codes = zip(*blocks(text), strict=True) if blocks(text) else ((), ())
        assert languages in ((), ("python", "text")), f"{title!r} must show one program and its output"
        if codes:
            found[title] = Program(*codes)
    return found


def cells(title: str) -> list[tuple[str, str]]:
    """The rows of a section's tables: what it is in Lua, and what it is here."""
    return re.findall(r"^   \* - (.*(?:\n {7}.*)*)\n     - (.*(?:\n {7}.*)*)", SECTIONS[title], re.MULTILINE)


def missing_packages(modules: Iterable[str]) -> list[str]:
    """The optional packages that these modules need and that are not installed."""
    roots = {module.partition(".")[0] for module in modules} & OPTIONAL.keys()
    return sorted(OPTIONAL[root] for root in roots if importlib.util.find_spec(root) is None)


def skip_without(modules: Iterable[str]) -> None:
    missing = missing_packages(modules)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def imported_by(source: str) -> Iterator[str]:
    """The modules that a program imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def names_here(title: str) -> dict[str, list[str]]:
    """The dotted names in the right column of a section's tables, and what each may stand for."""
    code = " ".join(re.findall(r"``(.+?)``", " ".join(here for _, here in cells(title)), re.DOTALL))
    found = {}
    for name in set(re.findall(r"(?<![\w.\"/])[a-z]\w*(?:\.[A-Za-z]\w*)+", code)) - FUNCTIONS.keys():
        first, _, rest = name.partition(".")
        starts = STANDS_FOR_IN.get(title, {}).get(first) or STANDS_FOR.get(first)
        if starts is not None:
            found[name] = [f"{start}.{rest}" for start in starts]
        elif first in MODULES:
            found[name] = [name]
    return found


def exists(name: str) -> bool:
    try:
        resolve_name(name)
    except AttributeError:
        return False
    return True


SECTIONS = sections()
PROGRAMS = programs()


@pytest.mark.slow
@pytest.mark.parametrize("title", PROGRAMS)
def test_a_program_prints_what_the_page_shows(title: str) -> None:
    program = PROGRAMS[title]
    skip_without(imported_by(program.source))
    output = output_of(program.source)
    if not doctest.OutputChecker().check_output(program.output, output, doctest.ELLIPSIS):
        assert output == program.output


@pytest.mark.parametrize("module", FUNCTIONS)
def test_a_module_has_a_program_and_all_of_its_functions(module: str) -> None:
    assert module in PROGRAMS
    in_lua = " ".join(lua for lua, _ in cells(module))
    functions = FUNCTIONS[module].split()
    assert [name for name in functions if not re.search(rf"``{re.escape(name)}\(", in_lua)] == []


@pytest.mark.parametrize("module", FUNCTIONS)
def test_what_takes_a_function_s_place_exists(module: str) -> None:
    names = names_here(module)
    can_be_looked_at = {name: may_be for name, may_be in names.items() if not missing_packages(may_be)}
    assert [name for name, may_be in can_be_looked_at.items() if not any(map(exists, may_be))] == []
    skip_without(target for may_be in names.values() for target in may_be)
