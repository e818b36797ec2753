"""Servers and clients that are killed, stopped and cut off at random, and every outcome held against a log.

Run it with `make chaos`; SECONDS says for how long.  The programs are those of
`chaos_programs`.  This one starts them, strikes at random, starts again what has
died, and lets all end.  Then it reads what they wrote: a request that ended in
NOT_SENT or NOT_RUN never ran; one that was answered, or RAN, ran once; nothing
ran twice; every request of a client that was not killed has ended; and nobody
got another one's answer.  It ends with status 1 if that does not hold.

Between a client and its server is a line that can be cut.  Nothing leaves the
loopback, and no process outlives this one, however that ends.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import trustme
from gevent import socket

from ratchet import Outcome
from robustness.chaos_programs import ENDINGS, LAST_SECONDS, RAN, READY

KINDS = ("tcp", "unix", "tls")

STRIKES_PER_SECOND = 6.0
_RESET = struct.pack("ii", 1, 0)
_SHOWN = 20
"""How many violations are printed."""


class Line:
    """Passes bytes on between clients and a server that may come and go, until it is cut."""

    def __init__(self, address: Any, target: Callable[[], Any]) -> None:
        self._target = target
        self._family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._pairs: set[tuple[Any, Any]] = set()
        self._listener = socket.socket(self._family)
        self._listener.bind(address)
        self._listener.listen(128)
        self.address = self._listener.getsockname()
        self._accepting = gevent.spawn(self._accept)

    def cut(self, reset: bool) -> int:
        """Break every connection; how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            if reset and self._family == socket.AF_INET:
                for each in pair:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close(pair)
        return len(pairs)

    def close(self) -> None:
        self._accepting.kill()
        self._listener.close()
        self.cut(reset=False)

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.socket(self._family)
            try:
                far.connect(self._target())
            except (OSError, ValueError):
                # The server is not there at the moment.
                near.close()
                far.close()
                continue
            self._pairs.add((near, far))
            gevent.spawn(self._pass_on, near, far, (near, far))
            gevent.spawn(self._pass_on, far, near, (near, far))

    def _pass_on(self, source: Any, target: Any, pair: tuple[Any, Any]) -> None:
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
        except OSError:
            # It was cut, or an end of it was killed.
            pass
        self._close(pair)

    def _close(self, pair: tuple[Any, Any]) -> None:
        self._pairs.discard(pair)
        for each in pair:
            each.close()


@dataclass
class Counts:
    """What was done, and what came of it."""

    kills: int = 0
    stops: int = 0
    cuts: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


class Program:
    """A server or a client that is started again when it was killed."""

    def __init__(
        self, directory: Path, counts: Counts, role: str, name: str, address: str, kind: str
    ) -> None:
        self._directory = directory
        self._counts = counts
        self._arguments = [role, name, address, kind, str(directory), str(os.getpid())]
        self._errors = directory / f"{name}.stderr"
        self._ready = directory / f"{name}{READY}"
        self.role = role
        self.name = name
        # The processes that were killed; of the others, every request has to end.
        self.killed: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "robustness.chaos_programs", *self._arguments],
                # Ctrl-C in the shell is for the director alone.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    @property
    def is_ready(self) -> bool:
        return self._ready.exists() and self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, for good; `start` starts another one."""
        process, self._process = self._process, None
        self._ready.unlink(missing_ok=True)
        if process is not None:
            if process.poll() is None:
                self.killed.add(process.pid)
                process.kill()
            process.wait()

    def stop_for(self, seconds: float) -> None:
        """Let it stand still for a while; does not block."""
        process = self._process
        self.signal(signal.SIGSTOP)

        def go_on() -> None:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)

        gevent.spawn_later(seconds, go_on)

    def end(self, seconds: float) -> None:
        """Ask it to end, and wait for that."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        end = time.monotonic() + seconds
        while self._process is not None and self._process.poll() is None and time.monotonic() < end:
            gevent.sleep(0.01)
        if self._process is not None and self._process.poll() is None:
            self._counts.violations.append(f"{self.name} does not end within {seconds} s")

    def check(self) -> None:
        """It has not ended by itself, and has not complained."""
        if self._process is not None and self._process.poll() is not None:
            self._counts.violations.append(f"{self.name} ended with status {self._process.returncode}")
            self.kill()
            self.start()
        self._check_errors()

    def check_end(self) -> None:
        """It has ended well."""
        if self._process is not None and self._process.poll() not in (None, 0):
            self._counts.violations.append(f"{self.name} ended with status {self._process.returncode}")
        self._check_errors()

    def _check_errors(self) -> None:
        if self._errors.stat().st_size:
            self._counts.violations.append(f"{self.name} printed: {self._errors.read_text()[-2000:]}")
            self._errors.write_text("")


class Director:
    """Starts everything, strikes, and ends everything."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self.counts = Counts()
        self._programs: list[Program] = []
        self._lines: list[Line] = []
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "authority.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            directory / "server.pem"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Servers and clients of each kind; all are gone afterwards, whatever happens."""
        try:
            for kind in KINDS:
                self._start_kind(kind)
            self._wait_until_ready(self._programs)
            yield
        finally:
            for program in self._programs:
                program.kill()
            for line in self._lines:
                line.close()

    def strike_for(self, seconds: float, progress: bool) -> None:
        end = time.monotonic() + seconds
        shown = time.monotonic()
        while time.monotonic() < end:
            gevent.sleep(self._chance.expovariate(STRIKES_PER_SECOND))
            self._strike()
            for program in self._programs:
                program.check()
            if progress and time.monotonic() > shown + 1:
                shown = time.monotonic()
                text = f"{end - shown:.0f} s left: {self.counts.kills} kills, {self.counts.stops} stops"
                print(f"\r{text:60}", end="\r", file=sys.stderr, flush=True)

    def let_end(self) -> None:
        """Let the clients end what is open, and then the servers."""
        for program in self._programs:
            program.signal(signal.SIGCONT)
        self._wait_until_ready(self._programs)
        for role in ("client", "server"):
            ending = [program for program in self._programs if program.role == role]
            gevent.joinall([gevent.spawn(program.end, LAST_SECONDS + 5) for program in ending])
        for program in self._programs:
            program.check_end()

    def judge(self) -> None:
        """Hold what the clients were told against what the servers did."""
        violations, endings = self.counts.violations, self.counts.endings
        ran = Counter(path_lines(self._directory / RAN))
        killed = {str(pid) for program in self._programs for pid in program.killed}
        known = set()
        for path in self._directory.glob(f"*{ENDINGS}"):
            ended: dict[str, str] = {}
            begun = []
            for line in path_lines(path):
                what, name, *how = line.split(" ", 2)
                if what == "begun":
                    begun.append(name)
                elif name in ended:
                    violations.append(f"{name} ended twice: {ended[name]}, {how}")
                else:
                    ended[name] = how[0]
            was_killed = path.name.removesuffix(ENDINGS).rpartition("-")[2] in killed
            known.update(begun)
            for name in begun:
                ending = ended.get(name, "lost with its client" if was_killed else "never")
                endings[ending] += 1
                violations.extend(judged(name, ending, ran[name]))
        violations.extend(f"{name} ran, and nobody sent it" for name in ran if name not in known)

    def _start_kind(self, kind: str) -> None:
        directory = self._directory
        listening = f"unix:{directory}/server.sock" if kind == "unix" else "127.0.0.1:0"
        self._start("server", f"server-{kind}", listening, kind)
        if kind == "unix":
            line = Line(f"{directory}/line.sock", lambda: f"{directory}/server.sock")
            addresses = [f"unix:{line.address}", listening]
        else:
            ready = directory / f"server-{kind}{READY}"
            line = Line(("127.0.0.1", 0), lambda: ("127.0.0.1", int(ready.read_text())))
            addresses = [f"127.0.0.1:{line.address[1]}"] * 2
        self._lines.append(line)
        for number, address in enumerate(addresses):
            self._start("client", f"client-{kind}-{number}", address, kind)

    def _start(self, role: str, name: str, address: str, kind: str) -> None:
        self._programs.append(Program(self._directory, self.counts, role, name, address, kind))
        self._programs[-1].start()

    def _wait_until_ready(self, programs: list[Program]) -> None:
        end = time.monotonic() + 30
        while not all(program.is_ready for program in programs):
            if time.monotonic() > end:
                raise RuntimeError(f"not ready: {[each.name for each in programs if not each.is_ready]}")
            gevent.sleep(0.01)

    def _strike(self) -> None:
        kind = self._chance.choices(("kill", "stop", "cut"), (4, 3, 3))[0]
        ready = [program for program in self._programs if program.is_ready]
        if kind == "cut":
            self.counts.cuts += self._chance.choice(self._lines).cut(reset=self._chance.random() < 0.5)
        elif ready and kind == "kill":
            program = self._chance.choice(ready)
            program.kill()
            self.counts.kills += 1
            program.start()
        elif ready:
            self._chance.choice(ready).stop_for(self._chance.choice((0.01, 0.1, 0.5)))
            self.counts.stops += 1


def path_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def judged(name: str, ending: str, times: int) -> list[str]:
    """What is wrong with a request that ended so and ran so many times."""
    outcome = ending.rpartition(" ")[2]
    wrong = (
        times > 1
        or (times and outcome in (Outcome.NOT_SENT, Outcome.NOT_RUN))
        or (not times and outcome in (Outcome.RAN, "answered"))
        or ending == "never"
        or ending.startswith("strange")
    )
    return [f"{name} ran {times} times and ended: {ending}"] if wrong else []


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill, stop and cut off servers and clients at random.")
    parser.add_argument("--seconds", type=float, default=180.0, help="for how long")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        director = Director(Path(directory), options.seed)
        with director.running():
            director.strike_for(options.seconds, progress=sys.stderr.isatty())
            director.let_end()
        director.judge()
    counts = director.counts
    print(
        f"{counts.endings.total()} requests, {counts.kills} kills, {counts.stops} stops, {counts.cuts} cuts"
    )
    for ending, count in counts.endings.most_common():
        print(f"{count:8} {ending}")
    for violation in counts.violations[:_SHOWN]:
        print(f"violation: {violation}")
    print(f"{len(counts.violations)} violations")
    sys.exit(1 if counts.violations else 0)


if __name__ == "__main__":
    main()
