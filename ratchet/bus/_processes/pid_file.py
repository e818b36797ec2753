"""A file that names the process that runs a service, and keeps a second one out."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from types import TracebackType


class PidFileError(OSError):
    """The PID file cannot be written, or belongs to another process."""


def checked_path(path: object) -> str | None:
    """The path of a PID file, as the system takes it; refuses what is no path."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"pid_file must be a path or None, not {path!r}")
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise ValueError(f"pid_file must be a path or None, not {path!r}")
    return name


class PidFile:
    """The file, in a `with` block; with None as the path there is none.

    The lock on it is what counts: the file of a process that was killed keeps nobody out.
    Entering raises `PidFileError`.  Does not block.
    """

    def __init__(self, path: str | None) -> None:
        # The working directory may change.
        self._path = None if path is None else os.path.abspath(path)
        self._descriptor = -1

    def __enter__(self) -> None:
        if self._path is not None:
            try:
                self._take(self._path)
            except OSError as error:
                reason = error.strerror or error
                raise PidFileError(
                    error.errno, f"cannot use the PID file {self._path!r}: {reason}"
                ) from error

    def _take(self, path: str) -> None:
        while self._descriptor < 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _lock(descriptor)
                if not _is_at(descriptor, path):
                    # Its holder has ended, and removed it, since it was opened.
                    continue
                os.ftruncate(descriptor, 0)
                os.write(descriptor, b"%d\n" % os.getpid())
                self._descriptor = descriptor
            finally:
                if self._descriptor < 0:
                    os.close(descriptor)

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._path is not None and self._descriptor >= 0:
            with suppress(OSError):
                os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        raise BlockingIOError(
            error.errno, f"process {holder} is running; stop it, or name another file"
        ) from error


def _is_at(descriptor: int, path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)
