"""`ratchet --print-completion`: scripts that shells can read, which know every command and option."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.conftest import Ratchet
from cli.programs import one_line
from helpers import LONG


def bash_completes(script: bytes, words: str, begun: str) -> set[str]:
    """What bash offers for a word that was begun."""
    line = f"{words} {begun}"
    program = subprocess.run(
        [
            "bash",
            "-c",
            f"source /dev/stdin; COMP_WORDS=({words} '{begun}'); COMP_CWORD={len(words.split())};"
            f" COMP_LINE='{line}'; COMP_POINT={len(line)}; _shtab_ratchet;"
            " printf '%s\\n' \"${COMPREPLY[@]}\"",
        ],
        input=script,
        capture_output=True,
        timeout=LONG,
        check=True,
    )
    return set(program.stdout.decode().split())


def test_bash_completes_commands_options_and_files(ratchet: Ratchet) -> None:
    pytest.importorskip("shtab")
    program = ratchet("--print-completion", "bash")
    assert (program.returncode, program.stderr) == (0, b"")
    assert bash_completes(program.stdout, "ratchet", "") >= {"call", "serve", "ping", "bench", "stats"}
    assert bash_completes(program.stdout, "ratchet call", "--nd") == {"--ndjson"}
    assert bash_completes(program.stdout, "ratchet --print-completion", "") == {"bash", "zsh"}
    assert "/dev/null" in bash_completes(program.stdout, "ratchet call --ca", "/dev/nul")


def test_zsh_shows_what_each_command_is_for(ratchet: Ratchet) -> None:
    pytest.importorskip("shtab")
    program = ratchet("--print-completion", "zsh")
    assert (program.returncode, program.stderr) == (0, b"")
    assert program.stdout.startswith(b"#compdef ratchet\n")
    assert b"ping:'measure round trips to a server'" in program.stdout
    assert b'"--ca[trust the authorities in this PEM file instead]:FILE:_files"' in program.stdout


def test_without_shtab_it_says_what_to_install(ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    program = ratchet("--print-completion", "bash")
    assert (program.returncode, program.stdout) == (1, b"")
    assert one_line(program) == (
        "shell completion needs shtab; install it with: pip install 'gevent-ratchet[completion]'"
    )
