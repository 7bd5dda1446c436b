"""Which workers are gone for good: a lock that the kernel lets go of when its process dies.

A lease makes others wait until it runs out, for its holder may only be slow. Workers on one SQLite
file run on one machine, so the kernel can say more: each worker holds a lock on one byte of the
file ``…-workers`` beside the store (an open file description lock, which ends with the last process
that has the file open). A lock that is free means that its worker is dead, not paused, and its runs
need not wait. Where there are no such locks, the lease alone decides.

Nothing rests on this: a worker taken for dead by mistake is fenced, as one whose lease ran out.
"""

import contextlib
import hashlib
import os
import struct
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    _LOCKS = False
else:
    _LOCKS = hasattr(fcntl, "F_OFD_SETLK")  # not on macOS

__all__ = ["Presence"]

_FLOCK = "@hhqqi4x"
_OFFSETS = 2**62


class Presence:
    """The locks of the workers on one store file, as one open store sees them."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-workers")
        self._file = -1
        self._held: set[str] = set()

    def hold(self, worker: str) -> bool:
        """Take a worker's lock, to be held until ``drop`` or death; False where that cannot be."""
        if worker not in self._held and self._open() >= 0 and self._lock(worker, fcntl.F_WRLCK):
            self._held.add(worker)
        return worker in self._held

    def drop(self, worker: str) -> None:
        """Let go of a worker's lock."""
        if worker in self._held:
            self._held.discard(worker)
            self._lock(worker, fcntl.F_UNLCK)

    def is_gone(self, worker: str) -> bool:
        """Tell whether a worker that had taken its lock is dead."""
        if worker in self._held or self._open() < 0:
            return False
        asked = _flock(worker, fcntl.F_WRLCK)
        try:
            answer = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked)
        except OSError:
            return False
        kind: int = struct.unpack(_FLOCK, answer)[0]
        return kind == fcntl.F_UNLCK

    def close(self) -> None:
        """Let go of all locks."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._held.clear()

    def _lock(self, worker: str, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _flock(worker, kind))
        except OSError:
            return False
        return True

    def _open(self) -> int:
        if self._file < 0 and _LOCKS:
            with contextlib.suppress(OSError):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._file


def _flock(worker: str, kind: int) -> bytes:
    """Return a ``struct flock`` for the one byte that is the worker's."""
    digest = hashlib.sha256(worker.encode()).digest()
    offset = int.from_bytes(digest[:8], "big") % _OFFSETS
    return struct.pack(_FLOCK, kind, os.SEEK_SET, offset, 1, 0)
