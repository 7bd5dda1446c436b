"""The file as it was at one moment, read through a transaction that stays open.

SQLite's write-ahead log keeps what the transaction has begun to read, so writers go on; the log
only cannot be used anew behind it while a snapshot lasts.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.core.events import Event
from holdfast.core.state import RunRow
from holdfast.ports import INCOMING, Letter, Standing
from holdfast.stores.sqlite import statements as sql
from holdfast.stores.sqlite.queries import Queries, next_prefix

__all__ = ["SqliteSnapshot"]

Far = Callable[..., Awaitable[Any]]
"""Runs a plain function where it may take its time."""


class SqliteSnapshot:
    """Keeps the contract of ``holdfast.ports.Snapshot`` on a connection of its own."""

    def __init__(self, queries: Queries, far: Far, *, now: int) -> None:
        """Begin to read; the connection must have an open transaction."""
        self._queries = queries
        self._far = far
        self._lost = queries.lost(now)

    async def runs(self, *, prefix: str = "", after: str = "", limit: int) -> list[Standing]:
        found: list[Standing] = await self._far(self._runs, prefix, after, limit)
        return found

    def _runs(self, prefix: str, after: str, limit: int) -> list[Standing]:
        above, below = max(after, prefix), (next_prefix(prefix) if prefix else "")
        statement = sql.STANDING_BELOW if below else sql.STANDING
        values = (above, after, limit, *([below] if below else []))
        return [
            Standing(RunRow(*row), epoch, worker if self._holds(worker) else "")
            for epoch, worker, *row in self._queries.all(statement, values)
        ]

    def _holds(self, worker: str | None) -> bool:
        return worker == INCOMING or (worker is not None and worker not in self._lost)

    async def events(self, run: str, *, after: int, limit: int) -> list[Event]:
        found: list[Event] = await self._far(self._queries.read, run, after, 0, limit)
        return found

    async def inbox(self, run: str, *, after: int, limit: int) -> list[Letter]:
        found: list[Letter] = await self._far(self._queries.inbox, run, after, limit)
        return found

    async def strays(self, *, after: str, limit: int) -> list[str]:
        found = await self._far(self._queries.all, sql.STRAYS, (after, limit))
        return [run for (run,) in found]
