"""Connections, and what becomes of them.

A *link* is one connection, opened when it is first needed and opened anew when it was lost, whose
operations run one after the other. All links of a store belong to one *server*: when one of them is
lost, the others are given up too, so that no two of them speak with different primaries.

What was learned by losing writes, each a rule here:

- Nothing is ever cancelled. A cancelled COMMIT may have been made, and the answer says otherwise.
  An operation that takes too long has its socket shut, and nobody knows what came of it:
  ``Unknown``.
- A warning about a commit means that it stands on this server alone: ``Unknown`` too.
- Whoever waits for an operation may be cancelled; the operation goes on.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import Diagnostic

from holdfast.errors import HoldfastError, StoreRefused, StoreUnavailable
from holdfast.stores.postgres.server import FOR_GOOD, LOCK_S, Server, shut

__all__ = ["Link", "Unknown", "Withdrawn", "backoff_s", "judge", "meaning"]

T = TypeVar("T")

OPERATION_S = 30.0
"""Longer than this no answer of the server's is waited for."""

_PASSING = {
    "25006": "the server is read-only; it may be a standby",
    "40001": "it would not have been serializable",
    "40P01": "it was in a deadlock",
    "53000": "the server lacks resources",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections",
    "55P03": f"a lock was held by somebody else for {LOCK_S} s",
    "57014": "the server ended the statement (statement_timeout)",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed",
    "57P03": "the server is starting, or it is a standby that is not ready",
    "57P05": "the server has closed an idle connection",
}


class Unknown(Exception):  # noqa: N818 - it states a fact
    """Something was sent, and nobody can tell whether it was done."""


class Withdrawn(Exception):  # noqa: N818 - it states a fact
    """The server has undone the transaction; the same may go through later."""


class Link:
    """One connection of a store."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: AsyncConnection | None = None
        self._generation = -1
        self._turn = asyncio.Lock()
        self._warnings: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self, operation: Callable[[AsyncConnection], Awaitable[T]], *, time_s: float = OPERATION_S
    ) -> T:
        """Carry out an operation when it is its turn.

        Raises:
            NotSent, Withdrawn: nothing was done.
            Unknown: nobody can tell.
            StoreRefused: it cannot be done as things are.
            psycopg.Error: the operation's own mistake; nothing was done.
        """
        task = asyncio.get_running_loop().create_task(self._run(operation, time_s))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish what was begun and close the connection."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have left

    async def _run(self, operation: Callable[[AsyncConnection], Awaitable[T]], time_s: float) -> T:
        async with self._turn:
            connection = await self._connected()
            self._warnings.clear()
            alarm = asyncio.get_running_loop().call_later(time_s, shut, connection.pgconn)
            try:
                result = await operation(connection)
            except psycopg.Error as error:
                raise self._judge(connection, error) from error
            finally:
                alarm.cancel()
            if self._warnings:
                raise Unknown("; ".join(self._warnings))
            return result

    async def _connected(self) -> AsyncConnection:
        connection = self._connection
        fresh = self._generation == self._server.generation
        if connection is not None and fresh and not connection.closed:
            return connection
        if connection is not None:
            self._connection = None
            with suppress(psycopg.Error):
                await connection.close()
        generation = self._server.generation
        connection = await self._server.connect()
        connection.add_notice_handler(self._noticed)
        self._connection, self._generation = connection, generation
        return connection

    def _noticed(self, said: Diagnostic) -> None:
        if said.severity_nonlocalized != "NOTICE":
            self._warnings.append(f"{said.message_primary} {said.message_detail or ''}".strip())

    def _judge(self, connection: AsyncConnection, error: psycopg.Error) -> Exception:
        if connection.closed or connection.broken:
            if self._generation == self._server.generation:
                self._server.lost()
            return Unknown(" ".join(str(error).split()))
        if self._warnings:
            return Unknown("; ".join(self._warnings))
        if error.sqlstate == "25006":
            self._server.lost()  # the primary is another one by now
        return judge(error, self._server.url)


def judge(error: psycopg.Error, url: str) -> Exception:
    """Return what an error says that came over a connection which still stands."""
    state = error.sqlstate or ""
    text = " ".join(str(error).split())
    if state in _PASSING:
        return Withdrawn(f"{_PASSING[state]} ({text})")
    if state in FOR_GOOD:
        return StoreRefused(
            f"store {url}: {FOR_GOOD[state]}: {text}. Hint: the owner of the schema 'holdfast' may"
            " GRANT them, or holdfast migrate bring it up to date."
        )
    return error


def meaning(error: Exception, url: str) -> HoldfastError:
    """Return what those who asked are told."""
    match error:
        case HoldfastError():
            return error
        case Unknown():
            return StoreUnavailable(
                f"store {url}: {error}. Whether it was written is not known."
                " Hint: the log will tell, once the store is there again."
            )
        case _:
            return StoreUnavailable(f"store {url}: {error}. Nothing was written.")


def backoff_s(attempt: int) -> float:
    """Return how long to wait after a failed attempt, in seconds; 1 is the first."""
    return random.uniform(0.5, 1) * min(0.05 * 2.0 ** min(attempt, 10), 1.0)  # noqa: S311 - jitter
