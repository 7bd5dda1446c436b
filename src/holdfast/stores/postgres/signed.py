"""What a database keeps for proofs: ``holdfast.signed.SignedLog`` on the store's connections.

A head is told behind a write that waits for the standbys: whoever is handed one keeps it, and a
primary that was given up must not hand out one of its own.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.core.events import Event
from holdfast.errors import RunUnknown
from holdfast.signed import Head, Signer
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, Row, single
from holdfast.stores.postgres.sequencer import HEAD, SIGNERS, Sequencer, tile_hashes

__all__ = ["PostgresSignedLog"]


class PostgresSignedLog:
    """Reads signers, heads, tiles and leaves; a leaf's index is its position minus 1."""

    def __init__(
        self,
        sequencer: Sequencer,
        *,
        ask: Callable[[Callable[[], Flow[Any]]], Awaitable[Any]],
        whole: Callable[[Flow[Any]], Awaitable[Any]],
        place: Callable[[], Awaitable[int]] | None,
        read_log: Callable[[int, int], Flow[list[tuple[int, Event]]]],
    ) -> None:
        """Read and enrol through the store.

        Args:
            sequencer: That of the store.
            ask: Carries out what may be done twice.
            whole: Carries out a flow once, in one transaction, however long it takes.
            place: Gives positions, as far as that can be done now, and returns to how many notes;
                None for a store that only reads.
            read_log: Reads a part of the log.
        """
        self._sequencer = sequencer
        self._ask = ask
        self._whole = whole
        self._place = place
        self._read_log = read_log

    async def signers(self) -> list[Signer]:
        return [Signer(*row) for row in await self._ask(lambda: single(SIGNERS))]

    async def enrol(self, signer: Callable[[Head | None], Signer]) -> Signer:
        chosen: Signer = await self._whole(self._sequencer.enrol(signer))
        return chosen

    async def head(self) -> Head | None:
        if self._place is not None:
            while await self._place():
                pass
        rows: list[Row] = await self._ask(self._newest)
        return Head(*rows[0]) if rows else None

    def _newest(self) -> Flow[list[Row]]:
        first: Round = [] if self._place is None else [(sql.MARK, ())]
        *_, rows = yield [*first, (HEAD, ())]
        return rows

    async def hashes(self, level: int, n: int, width: int) -> bytes:
        found: bytes = await self._ask(lambda: tile_hashes(level, n, width))
        return found

    async def index(self, run: str, seq: int) -> int:
        for (index,) in await self._ask(lambda: single(sql.INDEX, seq, run)):
            return int(index)
        raise RunUnknown(f"run {run!r} has no event {seq} with a position", run=run, seq=seq)

    async def leaves(self, start: int, limit: int) -> list[Event]:
        rows: list[Row] = await self._ask(lambda: single(HEAD))
        size = rows[0][0] if rows else 0
        found = await self._ask(lambda: self._read_log(start, limit))
        return [event for pos, event in found if pos <= size]
