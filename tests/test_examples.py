"""The checksum examples, each run as a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import LONG

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parent.parent
EXAMPLES = CHECKOUT / "examples"
PIECE_SIZE = 256 * 1024  # as in checksum_client.py


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files with awkward names, sizes and bytes."""
    content = bytes(range(256)) * 1024
    assert len(content) == PIECE_SIZE
    files = {
        b"empty": b"",
        b"one piece": content,
        b"one byte less": content[:-1],
        b"one byte more": content + b"!",
        b"many pieces": content * 20 + b"the end",
        b"new\nline": b"1",
        b"carriage\rreturn": b"2",
        b"back\\slash": b"3",
        b"\xff\xfe not UTF-8": b"4",
    }
    folder = tmp_path / "a folder"
    (folder / "sub" / "folder").mkdir(parents=True)
    for name, data in files.items():
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(data)
    (folder / "sub" / "folder" / "deep").write_bytes(b"5")
    (folder / "link").symlink_to("empty")
    return folder


def sha256sums(folder: Path) -> list[bytes]:
    """What sha256sum prints for every file of a folder, sorted."""
    printed = subprocess.run(
        ["find", folder, "-type", "f", "-exec", "sha256sum", "{}", "+"], capture_output=True, check=True
    )
    return sorted(printed.stdout.splitlines())


def run(*command: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, timeout=LONG, check=False, cwd=CHECKOUT
    )


@contextmanager
def checksum_server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running server, and the address that it printed."""
    server = subprocess.Popen(
        [sys.executable, EXAMPLES / "checksum_server.py", *arguments], stdout=subprocess.PIPE, text=True
    )
    with server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().removeprefix("listening on ").strip()
        finally:
            server.terminate()


def test_the_demo_prints_what_sha256sum_prints(folder: Path) -> None:
    demo = run(EXAMPLES / "checksum_demo.py", folder)
    assert demo.returncode == 0
    assert sorted(demo.stdout.splitlines()) == sha256sums(folder)
    progress = demo.stderr.decode().splitlines()
    assert "0 of 10 files" in progress[1]
    assert "10 of 10 files" in progress[-1]


@pytest.mark.parametrize("form", ["unix:{folder}/socket", "127.0.0.1:0", "localhost:0"])
def test_the_checksum_programs_can_be_started_by_hand_on_any_address(
    folder: Path, tmp_path: Path, form: str
) -> None:
    with checksum_server(form.format(folder=tmp_path)) as (server, address):
        client = run(EXAMPLES / "checksum_client.py", address, folder)
        assert client.returncode == 0
        assert sorted(client.stdout.splitlines()) == sha256sums(folder)
        server.send_signal(signal.SIGTERM)
        assert server.wait(LONG) == 0


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_summed(folder: Path) -> None:
    # Root may read everything, so the file goes away in place of being locked.
    program = f"""
        import sys
        sys.path.insert(0, {str(EXAMPLES)!r})
        import checksum_client
        found = checksum_client.files_of
        checksum_client.files_of = lambda folder: [*found(folder), folder + b"/gone"]
        sys.argv = ["checksum_client.py", {{address!r}}, {str(folder)!r}]
        sys.exit(checksum_client.main())
    """
    with checksum_server() as (_, address):
        client = run("-c", "\n".join(line.strip() for line in program.format(address=address).splitlines()))
    assert client.returncode == 1
    assert b"gone" in client.stderr
    assert sorted(client.stdout.splitlines()) == sha256sums(folder)


def test_a_client_says_that_its_server_is_not_there(folder: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/nobody"
    client = run(EXAMPLES / "checksum_client.py", address, folder, "--timeout", 0.1)
    assert (client.returncode, client.stdout) == (1, b"")
    assert client.stderr.startswith(f"not connected to {address} within 0.1 s: ".encode())
