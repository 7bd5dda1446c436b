"""The chunks of a store file: which are there, and where new ones go; see ``stores/payloads.py``.

Invariants: a chunk's bytes never change; what is known of a committed chunk is forgotten when
another connection has committed, for that may have been a sweep, which removes what nobody has.
"""

from collections.abc import Sequence
from typing import Any

import apsw

from holdfast.stores.payloads import chunk_hash, deflate, split

__all__ = ["ChunkWriter"]

_KNOWN_MAX = 20_000


class ChunkWriter:
    """Stores payloads through a connection, inside whatever transaction is open there."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._known: dict[bytes, int] = {}
        """Hash → number, of chunks seen lately."""
        self._version = 0
        """What SQLite counts up when another connection commits."""

    def forget(self) -> None:
        """Forget what is known of chunks: a transaction was undone, and its numbers with it."""
        self._known.clear()

    def store(self, payload: bytes) -> tuple[int, bytes]:
        """Return (form, bytes) for a row."""
        splitting = split(payload)
        numbers: Sequence[int] | None = None
        while True:
            try:
                parts = next(splitting) if numbers is None else splitting.send(numbers)
            except StopIteration as end:
                form, stored = end.value
                return form, stored
            numbers = self._keep(parts)

    def _keep(self, parts: Sequence[bytes]) -> list[int]:
        """Store what is not stored yet, and return the number of each part."""
        version: Any = self._connection.pragma("data_version")
        if version != self._version or len(self._known) > _KNOWN_MAX:
            self._version = version
            self._known.clear()
        known = self._known
        numbers = []
        for part in parts:
            digest = chunk_hash(part)
            number = known.get(digest)
            if number is None:
                number = known[digest] = self._number(digest, part)
            numbers.append(number)
        return numbers

    def _number(self, digest: bytes, part: bytes) -> int:
        execute = self._connection.execute
        found: list[tuple[Any, ...]] = execute(
            "SELECT n FROM chunk WHERE hash = ?", (digest,)
        ).fetchall()
        if found:
            return int(found[0][0])
        form, data = deflate(part)
        execute("INSERT INTO chunk (hash, form, data) VALUES (?, ?, ?)", (digest, form, data))
        return self._connection.last_insert_rowid()
