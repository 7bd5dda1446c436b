"""What a store file keeps for proofs: ``holdfast.signed.SignedLog`` on the store's connections.

A signer, a head, a tile or a place costs microseconds to read, a tile that is not full some
hundred: these reads run right in the loop, like the store's other short ones, and a proof needs a
dozen of them. Leaves are read where long reads belong.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.core.events import Event
from holdfast.errors import RunUnknown
from holdfast.signed import Head, Signer
from holdfast.stores.sqlite import statements as sql
from holdfast.stores.sqlite.queries import Queries
from holdfast.stores.sqlite.sealing import Sealing, tile_hashes
from holdfast.stores.sqlite.writer import Writer

__all__ = ["SqliteSignedLog"]

Read = Callable[..., Awaitable[Any]]
"""Runs a query of the far connection where long reads belong."""


class SqliteSignedLog:
    """Reads signers, heads, tiles and leaves; a leaf's index is its position minus 1."""

    def __init__(
        self,
        near: Queries,
        far: Queries,
        read: Read,
        writing: Callable[[], tuple[Sealing, Writer]],
    ) -> None:
        self._near = near
        self._far = far
        self._read = read
        self._writing = writing

    async def signers(self) -> list[Signer]:
        return [Signer(*row) for row in self._near.all(sql.SIGNERS, ())]

    async def enrol(self, signer: Callable[[Head | None], Signer]) -> Signer:
        sealing, writer = self._writing()
        chosen: Signer = await writer.put(sealing.enrol, signer, alone=True)
        return chosen

    async def head(self) -> Head | None:
        for row in self._near.all(sql.HEAD, ()):
            return Head(*row)
        return None

    async def hashes(self, level: int, n: int, width: int) -> bytes:
        return tile_hashes(self._near.all, level, n, width)

    async def index(self, run: str, seq: int) -> int:
        for (index,) in self._near.all(sql.INDEX, (run, seq)):
            return int(index)
        raise RunUnknown(f"run {run!r} has no event {seq}", run=run, seq=seq)

    async def leaves(self, start: int, limit: int) -> list[Event]:
        head = await self.head()
        size = head.size if head else 0
        found = await self._read(self._far.read_log, start, limit)
        return [event for pos, event in found if pos <= size]
